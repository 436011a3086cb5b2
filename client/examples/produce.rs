//! Writes records and says where they went:
//! `cargo run -p millstream-client --example produce -- 127.0.0.1:9092 orders`

use millstream_client::{
    ClientConfig, Cluster, Codec,
    producer::{Producer, ProducerConfig, Record},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let bootstrap = args.next().unwrap_or_else(|| "127.0.0.1:9092".to_string());
    let topic = args.next().unwrap_or_else(|| "orders".to_string());

    let config = ProducerConfig { codec: Codec::Lz4, ..ProducerConfig::default() };
    let producer = Producer::new(Cluster::new(ClientConfig::new(&bootstrap)), config);

    // Records are taken without waiting for their results: they travel in batches.
    let mut deliveries = Vec::new();
    for n in 0..10 {
        let record = Record {
            key: Some(format!("customer-{}", n % 3).into()),
            value: Some(format!("order {n}").into()),
            headers: vec![("source".to_string(), Some("example".into()))],
            ..Record::default()
        };
        deliveries.push(producer.send(&topic, record).await?);
    }
    for delivery in deliveries {
        let delivered = delivery.await?;
        println!("{}-{} at offset {}", delivered.topic, delivered.partition, delivered.offset);
    }
    producer.close().await;
    Ok(())
}
