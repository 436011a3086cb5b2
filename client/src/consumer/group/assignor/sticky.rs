//! Kafka's `sticky` and `cooperative-sticky`: as equal as possible, and of what members have as little as possible moves.
//!
//! Invariants, each said as an absence:
//! 1. No partition has two readers, nor one that does not want its topic.
//! 2. No partition moves while its reader has fewer than two more than another member that wants it.
//! 3. No partition is given away cooperatively while another member still has it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Assignment, Member, all_partitions};
use crate::consumer::TopicPartition;

/// What each member has so far, in the order of the members.
type Loads = Vec<BTreeSet<TopicPartition>>;

pub(super) fn assign(members: &[&Member], partitions: &BTreeMap<String, i32>) -> Assignment {
    let wanting: HashMap<&str, Vec<usize>> = partitions
        .keys()
        .map(|topic| {
            let who = members.iter().enumerate().filter(|(_, member)| member.wants(topic)).map(|(at, _)| at);
            (topic.as_str(), who.collect())
        })
        .collect();
    let mut loads: Loads = vec![BTreeSet::new(); members.len()];
    let owners = owners(members);
    let mut free = Vec::new();
    for partition in all_partitions(partitions) {
        match owners.get(&partition).filter(|at| members[**at].wants(&partition.topic)) {
            Some(at) => drop(loads[*at].insert(partition)),
            None => free.push(partition),
        }
    }
    for partition in free {
        if let Some(at) = least(&loads, &wanting[&*partition.topic]) {
            loads[at].insert(partition);
        }
    }
    balance(&mut loads, &wanting);
    members.iter().zip(loads).map(|(member, load)| (member.id.clone(), load.into_iter().collect())).collect()
}

/// Who has each partition: the one that claims it in the newest generation; none, when several do.
fn owners(members: &[&Member]) -> HashMap<TopicPartition, usize> {
    let mut claims: HashMap<&TopicPartition, (Option<i32>, Option<usize>)> = HashMap::new();
    for (at, member) in members.iter().enumerate() {
        for partition in &member.owned {
            let claim = claims.entry(partition).or_insert((member.generation, Some(at)));
            if claim.1 != Some(at) {
                match member.generation.cmp(&claim.0) {
                    std::cmp::Ordering::Greater => *claim = (member.generation, Some(at)),
                    std::cmp::Ordering::Equal => claim.1 = None,
                    std::cmp::Ordering::Less => {}
                }
            }
        }
    }
    claims.into_iter().filter_map(|(partition, (_, owner))| Some((partition.clone(), owner?))).collect()
}

/// Of these members the one with the fewest partitions; of several the first.
fn least(loads: &Loads, members: &[usize]) -> Option<usize> {
    members.iter().copied().min_by_key(|at| (loads[*at].len(), *at))
}

/// Moves single partitions from who has most to who has least. It ends: each move makes the sum of the squares of the
/// loads smaller.
fn balance(loads: &mut Loads, wanting: &HashMap<&str, Vec<usize>>) {
    let mut moved = true;
    while std::mem::take(&mut moved) {
        let mut order: Vec<usize> = (0..loads.len()).collect();
        order.sort_by_key(|at| std::cmp::Reverse(loads[*at].len()));
        for from in order {
            let candidates: Vec<TopicPartition> = loads[from].iter().rev().cloned().collect();
            for partition in candidates {
                let Some(to) = least(loads, &wanting[&*partition.topic]) else { continue };
                if loads[from].len() > loads[to].len() + 1 {
                    loads[from].remove(&partition);
                    loads[to].insert(partition);
                    moved = true;
                }
            }
        }
    }
}

/// Takes out what another member still has: it is given when that one has let it go, in the next round.
pub(super) fn without_moving(mut assignment: Assignment, members: &[&Member]) -> Assignment {
    let mut holders: HashMap<&TopicPartition, Vec<&str>> = HashMap::new();
    for member in members {
        member.owned.iter().for_each(|partition| holders.entry(partition).or_default().push(&member.id));
    }
    for (member, partitions) in &mut assignment {
        partitions.retain(|partition| {
            holders.get(partition).is_none_or(|holders| holders.contains(&member.as_str()))
        });
    }
    assignment
}

#[cfg(test)]
mod tests {
    use super::super::{
        Assignor,
        tests::{assigned, member, topics},
    };
    use super::*;

    fn place(topic: &str, partition: i32) -> TopicPartition {
        TopicPartition { topic: topic.into(), partition }
    }

    fn owning(id: &str, topics: &[&str], owned: &[(&str, i32)], generation: i32) -> Member {
        let owned = owned.iter().map(|(topic, partition)| place(topic, *partition)).collect();
        Member { owned, generation: Some(generation), ..member(id, topics) }
    }

    #[test]
    fn what_is_equal_already_stays_as_it_is() {
        let members =
            [owning("a", &["t"], &[("t", 3), ("t", 1)], 4), owning("b", &["t"], &[("t", 0), ("t", 2)], 4)];
        let assignment = Assignor::CooperativeSticky.assign(&members, &topics(&[("t", 4)]));
        assert_eq!(assigned(&assignment, "a"), ["t-1", "t-3"]);
        assert_eq!(assigned(&assignment, "b"), ["t-0", "t-2"]);
    }

    #[test]
    fn a_new_member_gets_its_share_when_the_others_have_let_it_go() {
        let first = owning("a", &["t"], &[("t", 0), ("t", 1), ("t", 2), ("t", 3)], 4);
        let counts = topics(&[("t", 4)]);
        let round_one = Assignor::CooperativeSticky.assign(&[first.clone(), member("b", &["t"])], &counts);
        assert_eq!(assigned(&round_one, "a"), ["t-0", "t-1"]);
        assert!(assigned(&round_one, "b").is_empty(), "the first one still has them");
        let first = owning("a", &["t"], &[("t", 0), ("t", 1)], 5);
        let round_two = Assignor::CooperativeSticky.assign(&[first, owning("b", &["t"], &[], 5)], &counts);
        assert_eq!(assigned(&round_two, "b"), ["t-2", "t-3"]);
        // Where everyone gives up everything first, one round is enough.
        let eager = Assignor::Sticky.assign(
            &[owning("a", &["t"], &[("t", 0), ("t", 1), ("t", 2), ("t", 3)], 4), member("b", &["t"])],
            &counts,
        );
        assert_eq!((assigned(&eager, "a").len(), assigned(&eager, "b").len()), (2, 2));
    }

    #[test]
    fn a_claim_of_an_older_generation_gives_way() {
        let members = [owning("a", &["t"], &[("t", 0)], 3), owning("b", &["t"], &[("t", 0)], 4)];
        let assignment = Assignor::Sticky.assign(&members, &topics(&[("t", 2)]));
        assert_eq!(
            (assigned(&assignment, "a"), assigned(&assignment, "b")),
            (vec!["t-1".into()], vec!["t-0".into()])
        );
        let held = Assignor::CooperativeSticky.assign(&members, &topics(&[("t", 1)]));
        assert_eq!(assigned(&held, "b"), ["t-0"]);
        let twice = [owning("a", &["t"], &[("t", 0)], 4), owning("b", &["t"], &[("t", 0)], 4)];
        let assignment = Assignor::Sticky.assign(&twice, &topics(&[("t", 1)]));
        assert_eq!(assignment.values().flatten().count(), 1);
    }

    /// Whatever comes and goes: after at most two rounds everything is given, nothing moves without need, and no member that
    /// wants the same has two more than another.
    #[test]
    fn chance_comes_to_rest_in_balance() {
        let mut chance = 0x2545_f491_4f6c_dd1d_u64;
        let mut draw = |n: u64| {
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            chance % n
        };
        let counts = topics(&[("t", 7), ("u", 4), ("v", 1)]);
        let mut members: Vec<Member> = Vec::new();
        for round in 0..300 {
            match draw(3) {
                0 if members.len() > 1 => drop(members.remove(draw(members.len() as u64) as usize)),
                _ if members.len() < 6 => {
                    let wants: Vec<&str> = ["t", "u", "v"].into_iter().filter(|_| draw(3) > 0).collect();
                    members.push(member(&format!("m{round}"), &wants));
                }
                _ => {}
            }
            let mut settled = false;
            for generation in 0..3 {
                let assignment = Assignor::CooperativeSticky.assign(&members, &counts);
                let mut seen = BTreeSet::new();
                assert!(assignment.values().flatten().all(|p| seen.insert(p.clone())), "{assignment:?}");
                settled = members.iter().all(|m| m.owned.iter().eq(&assignment[&m.id]));
                for member in &mut members {
                    member.owned = assignment[&member.id].iter().cloned().collect();
                    member.generation = Some(round * 3 + generation);
                }
            }
            assert!(settled, "round {round}");
            for (a, b) in members.iter().flat_map(|a| members.iter().map(move |b| (a, b))) {
                let could_move = a.owned.iter().any(|p| b.wants(&p.topic));
                assert!(!could_move || a.owned.len() <= b.owned.len() + 1, "round {round}");
            }
            let wanted = all_partitions(&counts).filter(|p| members.iter().any(|m| m.wants(&p.topic)));
            assert_eq!(wanted.count(), members.iter().map(|m| m.owned.len()).sum::<usize>());
        }
    }
}
