//! Reads all partitions of a topic from the beginning to where they end now, without a group:
//! `cargo run -p millstream-client --example consume -- 127.0.0.1:9092 orders`

use futures::StreamExt;
use millstream_client::{
    ClientConfig, Cluster,
    admin::{Admin, OffsetAt},
    consumer::{Consumer, ConsumerConfig, Start, TopicPartition},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let bootstrap = args.next().unwrap_or_else(|| "127.0.0.1:9092".to_string());
    let topic = args.next().unwrap_or_else(|| "orders".to_string());

    let cluster = Cluster::new(ClientConfig::new(&bootstrap));
    let partitions: Vec<TopicPartition> = cluster
        .topic(&topic, false)
        .await?
        .partitions
        .iter()
        .map(|partition| TopicPartition { topic: topic.as_str().into(), partition: partition.index })
        .collect();

    let mut left = 0;
    for (partition, end) in Admin::new(cluster.clone()).offsets(partitions.clone(), OffsetAt::Latest).await {
        let end = end?.map_or(0, |found| found.offset);
        println!("{partition} ends at offset {end}");
        left += end;
    }

    let mut consumer = Consumer::new(cluster, ConsumerConfig::default());
    consumer.assign(partitions.into_iter().map(|partition| (partition, Start::Beginning)));
    let mut chunks = std::pin::pin!(consumer.stream());
    while left > 0 {
        let Some(chunk) = chunks.next().await.transpose()? else { break };
        for record in chunk.records {
            left -= 1;
            println!("{} {}: {:?} = {:?}", chunk.partition, record.offset, record.key, record.value);
        }
    }
    Ok(())
}
