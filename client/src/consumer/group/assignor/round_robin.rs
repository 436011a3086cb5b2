//! Kafka's `roundrobin`: all partitions in turn, each to the next member that wants its topic.

use std::collections::BTreeMap;

use super::{Assignment, Member, all_partitions, nothing};

pub(super) fn assign(members: &[&Member], partitions: &BTreeMap<String, i32>) -> Assignment {
    let mut assignment = nothing(members);
    let mut next = 0;
    for partition in all_partitions(partitions) {
        let in_turn = (0..members.len()).map(|n| (next + n) % members.len());
        let Some(at) = in_turn.into_iter().find(|at| members[*at].wants(&partition.topic)) else { continue };
        assignment.entry(members[at].id.clone()).or_default().push(partition);
        next = at + 1;
    }
    assignment
}

#[cfg(test)]
mod tests {
    use super::super::{
        Assignor,
        tests::{assigned, member, topics},
    };

    /// The example of the documentation of Kafka's `RoundRobinAssignor`.
    #[test]
    fn members_take_turns_and_those_that_do_not_want_a_topic_are_passed_over() {
        let members = [member("c0", &["t0"]), member("c1", &["t0", "t1"]), member("c2", &["t0", "t1", "t2"])];
        let counts = topics(&[("t0", 1), ("t1", 2), ("t2", 3)]);
        let assignment = Assignor::RoundRobin.assign(&members, &counts);
        assert_eq!(assigned(&assignment, "c0"), ["t0-0"]);
        assert_eq!(assigned(&assignment, "c1"), ["t1-0"]);
        assert_eq!(assigned(&assignment, "c2"), ["t1-1", "t2-0", "t2-1", "t2-2"]);
    }

    #[test]
    fn members_that_want_the_same_get_the_same_number() {
        let members = [member("a", &["t", "u"]), member("b", &["t", "u"])];
        let assignment = Assignor::RoundRobin.assign(&members, &topics(&[("t", 3), ("u", 3)]));
        assert_eq!(assigned(&assignment, "a"), ["t-0", "t-2", "u-1"]);
        assert_eq!(assigned(&assignment, "b"), ["t-1", "u-0", "u-2"]);
    }
}
