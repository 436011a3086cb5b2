//! Random commands on two machines, one of which is restarted in between, and on a model of the guarantees.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::cluster::{
    encode_allocate_producer_ids, encode_alter_topic_configs, encode_create_partitions, encode_delete_topic,
};

const NAMES: [&str; 5] = ["a", "b.c", "b_c", "d", "not a name"];

#[derive(Clone, Debug)]
enum ClusterStep {
    Create(usize, u8, u32),
    Delete(usize),
    Grow(usize, u32),
    Configure(usize, Option<String>),
    ProducerIds(u32),
    Restart,
}

fn step() -> impl Strategy<Value = ClusterStep> {
    let name = 0..NAMES.len();
    prop_oneof![
        4 => (name.clone(), 0u8..8, 0u32..40).prop_map(|(name, id, count)| ClusterStep::Create(name, id, count)),
        2 => name.clone().prop_map(ClusterStep::Delete),
        2 => (name.clone(), 0u32..60).prop_map(|(name, total)| ClusterStep::Grow(name, total)),
        1 => (name, prop::option::of("[a-c]{0,2}")).prop_map(|(name, value)| ClusterStep::Configure(name, value)),
        1 => (0u32..2000).prop_map(ClusterStep::ProducerIds),
        2 => Just(ClusterStep::Restart),
    ]
}

fn command(step: &ClusterStep) -> Option<Bytes> {
    Some(match step {
        ClusterStep::Create(name, id, count) => {
            encode_create_topic(NAMES[*name], topic_id(*id), (*count, u32::from(*id)), &BTreeMap::new(), 5)
        }
        ClusterStep::Delete(name) => encode_delete_topic(NAMES[*name]),
        ClusterStep::Grow(name, total) => encode_create_partitions(NAMES[*name], *total, 5),
        ClusterStep::Configure(name, value) => {
            encode_alter_topic_configs(NAMES[*name], &[("k".into(), value.clone())])
        }
        ClusterStep::ProducerIds(count) => encode_allocate_producer_ids(*count),
        ClusterStep::Restart => return None,
    })
}

/// The guarantees for the replies: which topics exist, their numbers of partitions, and that ids are new.
#[derive(Default)]
struct Model {
    topics: BTreeMap<String, (u8, usize)>,
    given: BTreeSet<u64>,
    next_producer: i64,
}

impl Model {
    fn check(&mut self, step: &ClusterStep, result: &ClusterResult) -> bool {
        let names: Vec<String> = self.topics.keys().map(|name| name.replace('.', "_")).collect();
        match (step, result) {
            (ClusterStep::Create(name, id, count), Ok(ClusterReply::Created { partitions })) => {
                let free = !names.contains(&NAMES[*name].replace('.', "_"));
                let id_free = *id != 0 && self.topics.values().all(|(other, _)| other != id);
                self.topics.insert(NAMES[*name].into(), (*id, *count as usize));
                let new = partitions.iter().all(|(id, _)| self.given.insert(id.0));
                free && id_free && new && partitions.len() == *count as usize && *count > 0 && *name != 4
            }
            (ClusterStep::Create(name, id, count), Err(_)) => {
                let taken = names.contains(&NAMES[*name].replace('.', "_"));
                taken
                    || *count == 0
                    || *name == 4
                    || *id == 0
                    || self.topics.values().any(|(other, _)| other == id)
            }
            (ClusterStep::Delete(name), Ok(ClusterReply::Deleted { partitions })) => {
                self.topics.remove(NAMES[*name]).is_some_and(|(_, count)| count == partitions.len())
            }
            (ClusterStep::Grow(name, total), Ok(ClusterReply::Created { partitions })) => {
                let new = partitions.iter().all(|(id, _)| self.given.insert(id.0));
                let topic = self.topics.get_mut(NAMES[*name]);
                new && topic.is_some_and(|(_, count)| {
                    let had = std::mem::replace(count, *total as usize);
                    had < *count && partitions.len() == *count - had
                })
            }
            (ClusterStep::Grow(name, total), Err(_)) => {
                self.topics.get(NAMES[*name]).is_none_or(|(_, count)| *total as usize <= *count)
            }
            (ClusterStep::Configure(name, _), Ok(ClusterReply::Done)) => {
                self.topics.contains_key(NAMES[*name])
            }
            (ClusterStep::Delete(name) | ClusterStep::Configure(name, _), Err(_)) => {
                !self.topics.contains_key(NAMES[*name])
            }
            (ClusterStep::ProducerIds(count), Ok(ClusterReply::ProducerIds { first })) => {
                let expected = self.next_producer;
                self.next_producer += i64::from(*count);
                *first == expected
            }
            _ => false,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn machine_and_model_agree_and_a_restart_changes_nothing(steps in proptest::collection::vec(step(), 1..60)) {
        let (mut model, mut machine, mut restarted) = (Model::default(), cluster(), cluster());
        for step in &steps {
            let Some(command) = command(step) else {
                restarted = ClusterMachine::restore(&restarted.snapshot().into_bytes()[..]).expect("our own snapshot");
                continue;
            };
            let result = apply(&mut machine, command.clone());
            prop_assert_eq!(&apply(&mut restarted, command), &result);
            prop_assert!(model.check(step, &result), "{:?} gave {:?}", step, result);
            prop_assert_eq!(machine.snapshot().into_bytes(), restarted.snapshot().into_bytes());
        }
        let listed = machine.topics().map(|topic| (topic.name.clone(), topic.partitions.len()));
        prop_assert!(listed.eq(model.topics.iter().map(|(name, (_, count))| (name.clone(), *count))));
    }
}
