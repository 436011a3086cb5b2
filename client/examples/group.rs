//! Reads as a member of a group, and commits what was read before partitions go to another member. Ends after this many records:
//! `cargo run -p millstream-client --example group -- 127.0.0.1:9092 orders 10`

use millstream_client::{
    ClientConfig, Cluster,
    consumer::{Assignor, Event, GroupConfig, GroupConsumer, Start},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let bootstrap = args.next().unwrap_or_else(|| "127.0.0.1:9092".to_string());
    let topic = args.next().unwrap_or_else(|| "orders".to_string());
    let mut left: usize = args.next().map_or(Ok(10), |n| n.parse())?;

    let config = GroupConfig {
        start: Start::Beginning,
        // A change of the group stops only the partitions that move.
        assignors: vec![Assignor::CooperativeSticky],
        // Offsets are committed when this program says so, not by time.
        commit_every: None,
        ..GroupConfig::new("example", [topic])
    };
    let mut member = GroupConsumer::new(Cluster::new(ClientConfig::new(&bootstrap)), config);
    while left > 0 {
        match member.event().await? {
            Event::Records(chunk) => {
                for record in &chunk.records {
                    println!("{} {}: {:?}", chunk.partition, record.offset, record.value);
                }
                left = left.saturating_sub(chunk.records.len());
                // Committed while the next records are on their way.
                member.commit_async().await?;
            }
            Event::Assigned(partitions) => println!("reads {partitions:?} too"),
            Event::Revoked(partitions) => {
                println!("gives up {partitions:?}");
                member.commit().await?;
            }
            Event::Lost(partitions) => println!("has lost {partitions:?}: others may read them already"),
            Event::Overdue { away, .. } => println!("was away for {away:?}: others have read meanwhile"),
        }
    }
    member.commit().await?;
    member.close().await?;
    Ok(())
}
