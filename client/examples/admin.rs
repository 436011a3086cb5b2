//! Makes a topic, changes what it keeps, and shows it:
//! `cargo run -p millstream-client --example admin -- 127.0.0.1:9092 orders`

use millstream_client::{
    ClientConfig, Cluster, ErrorCode,
    admin::{Admin, ConfigChange, ConfigOf, NewTopic},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let bootstrap = args.next().unwrap_or_else(|| "127.0.0.1:9092".to_string());
    let topic = args.next().unwrap_or_else(|| "orders".to_string());

    let admin = Admin::new(Cluster::new(ClientConfig::new(&bootstrap)));
    let new = NewTopic { name: topic.clone(), partitions: Some(3), ..NewTopic::default() };
    match admin.create_topic(&new, false).await {
        Ok(_) => println!("{topic} is made"),
        Err(error) if error.code() == Some(ErrorCode::TOPIC_ALREADY_EXISTS) => println!("{topic} is there"),
        Err(error) => return Err(error.into()),
    }
    let of = ConfigOf::Topic(topic.clone());
    admin.alter_configs(&of, &[ConfigChange::Set("retention.ms".into(), "86400000".into())], false).await?;
    for entry in admin.configs(&of).await?.iter().filter(|entry| entry.name == "retention.ms") {
        println!("{} = {:?}", entry.name, entry.value);
    }
    let (id, controller, brokers) = admin.cluster().describe().await?;
    println!("cluster {id:?}, led by {controller:?}: {brokers:?}");
    Ok(())
}
