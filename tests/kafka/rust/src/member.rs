//! A group member: reads and commits, reports both and its assignments, and leaves when standard input ends.

use std::{
    collections::BTreeMap,
    io::{copy, sink, stdin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rdkafka::{
    ClientContext, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance},
};

use crate::{Outcome, config};

const POLL: Duration = Duration::from_millis(200);

/// By partition the offset to commit: behind what was read and not committed yet.
#[derive(Default)]
struct Pending(Mutex<BTreeMap<i32, i64>>);

impl Pending {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<i32, i64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Pending {}

impl ConsumerContext for Pending {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(lost) = rebalance {
            let mut pending = self.lock();
            for place in lost.elements() {
                pending.remove(&place.partition());
            }
        }
    }

    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(places) = rebalance {
            let mut partitions: Vec<i32> = places.elements().iter().map(|place| place.partition()).collect();
            partitions.sort_unstable();
            let words: Vec<String> = partitions.iter().map(i32::to_string).collect();
            println!("assigned {}", words.join(" "));
        }
    }
}

fn until_input_ends() -> Arc<AtomicBool> {
    let ended = Arc::new(AtomicBool::new(false));
    let end_flag = Arc::clone(&ended);
    thread::spawn(move || {
        let _ = copy(&mut stdin(), &mut sink());
        end_flag.store(true, Ordering::Relaxed);
    });
    ended
}

/// Commits what is pending; while the group is rebalanced or the broker is away, the next round tries again.
fn commit(consumer: &BaseConsumer<Pending>, topic: &str) -> Outcome {
    let positions = consumer.context().lock().clone();
    let mut places = TopicPartitionList::new();
    for (&partition, &offset) in &positions {
        places.add_partition_offset(topic, partition, Offset::Offset(offset))?;
    }
    if consumer.commit(&places, CommitMode::Sync).is_ok() {
        let words: Vec<String> =
            positions.iter().map(|(partition, offset)| format!("{partition} {offset}")).collect();
        println!("committed {}", words.join(" "));
        consumer.context().lock().clear();
    }
    Ok(())
}

pub fn run(bootstrap: &str, topic: &str, group: &str) -> Outcome {
    let mut settings = config(bootstrap);
    settings.set("group.id", group).set("enable.auto.commit", "false").set("auto.offset.reset", "earliest");
    settings.set("session.timeout.ms", "6000").set("heartbeat.interval.ms", "500");
    let consumer: BaseConsumer<Pending> = settings.create_with_context(Pending::default())?;
    consumer.subscribe(&[topic])?;
    let ended = until_input_ends();
    while !ended.load(Ordering::Relaxed) {
        let mut next = consumer.poll(POLL);
        // An error here is a broker that is away, or a rebalance: librdkafka goes on by itself.
        while let Some(Ok(message)) = next {
            let key = String::from_utf8_lossy(message.key().unwrap_or_default());
            println!("read {} {} {key}", message.partition(), message.offset());
            consumer.context().lock().insert(message.partition(), message.offset() + 1);
            next = consumer.poll(Duration::ZERO);
        }
        if !consumer.context().lock().is_empty() {
            commit(&consumer, topic)?;
        }
    }
    Ok(())
}
