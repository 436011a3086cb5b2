//! Members of groups that read in the background.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use millstream_client::{
    Cluster,
    consumer::{Event, GroupConfig, GroupConsumer, TopicPartition},
};

use super::{Read, cluster, in_time};

/// A member that reads in the background and writes down what happens to it.
pub(crate) struct Reader {
    pub(crate) notes: Arc<Mutex<Notes>>,
    stop: tokio::sync::oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
pub(crate) struct Notes {
    /// What it reads: the numbers of the partitions, and with their topics.
    pub(crate) has: BTreeSet<i32>,
    pub(crate) places: BTreeSet<TopicPartition>,
    /// Partitions of each event, in order; those that were revoked or lost are negative, minus one.
    pub(crate) events: Vec<Vec<i32>>,
    pub(crate) read: Read,
}

impl Reader {
    pub(crate) fn start(config: GroupConfig) -> Reader {
        Reader::start_in(cluster(), config)
    }

    pub(crate) fn start_in(cluster: Cluster, config: GroupConfig) -> Reader {
        let notes = Arc::<Mutex<Notes>>::default();
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let shared = notes.clone();
        let task = tokio::spawn(async move {
            let mut member = GroupConsumer::new(cluster, config);
            loop {
                let event = tokio::select! {
                    event = member.event() => event.expect("a member"),
                    _ = &mut stopped => break,
                };
                shared.lock().expect("not poisoned").take(event);
            }
            member.close().await.expect("left");
        });
        Reader { notes, stop, task }
    }

    pub(crate) fn has(&self) -> BTreeSet<i32> {
        self.notes.lock().expect("not poisoned").has.clone()
    }

    /// The topic of each partition that it reads.
    pub(crate) fn topics(&self) -> Vec<String> {
        let notes = self.notes.lock().expect("not poisoned");
        notes.places.iter().map(|place| place.topic.to_string()).collect()
    }

    /// How many records it has read.
    pub(crate) fn count(&self) -> u32 {
        self.notes.lock().expect("not poisoned").read.0.values().sum()
    }

    pub(crate) async fn stop(self) -> Notes {
        drop(self.stop);
        in_time("left", self.task).await.expect("no panic");
        std::mem::take(&mut self.notes.lock().expect("not poisoned"))
    }
}

impl Notes {
    pub(crate) fn take(&mut self, event: Event) {
        let numbers =
            |partitions: &[TopicPartition]| partitions.iter().map(|p| p.partition).collect::<Vec<_>>();
        match event {
            Event::Records(chunk) => {
                chunk.records.iter().for_each(|r| self.read.add(chunk.partition.partition, &r.value))
            }
            Event::Assigned(partitions) => {
                self.has.extend(numbers(&partitions));
                self.places.extend(partitions.iter().cloned());
                self.events.push(numbers(&partitions));
            }
            Event::Revoked(partitions)
            | Event::Lost(partitions)
            | Event::Overdue { lost: partitions, .. } => {
                self.has.retain(|n| !numbers(&partitions).contains(n));
                self.places.retain(|place| !partitions.contains(place));
                self.events.push(numbers(&partitions).into_iter().map(|n| -n - 1).collect());
            }
        }
    }
}

/// Looks again and again until it is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let looking = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    in_time(what, looking).await;
}
