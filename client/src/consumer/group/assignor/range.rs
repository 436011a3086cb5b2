//! Kafka's `range`: of each topic a run of partitions for each member, as equal as possible; the first members get one
//! more.

use std::collections::BTreeMap;

use super::{Assignment, Member, nothing};
use crate::consumer::TopicPartition;

pub(super) fn assign(members: &[&Member], partitions: &BTreeMap<String, i32>) -> Assignment {
    let mut assignment = nothing(members);
    for (topic, count) in partitions {
        let readers: Vec<&&Member> = members.iter().filter(|member| member.wants(topic)).collect();
        let Ok(n @ 1..) = i32::try_from(readers.len()) else { continue };
        let (each, more) = (count / n, count % n);
        let mut next = 0;
        for (at, reader) in (0..).zip(readers) {
            let end = next + each + i32::from(at < more);
            let run = (next..end).map(|partition| TopicPartition { topic: topic.as_str().into(), partition });
            assignment.entry(reader.id.clone()).or_default().extend(run);
            next = end;
        }
    }
    assignment
}

#[cfg(test)]
mod tests {
    use super::super::{
        Assignor,
        tests::{assigned, member, topics},
    };

    #[test]
    fn the_first_members_get_one_more_of_each_topic() {
        let members = [member("b", &["t", "u"]), member("a", &["t", "u"])];
        let assignment = Assignor::Range.assign(&members, &topics(&[("t", 3), ("u", 3)]));
        assert_eq!(assigned(&assignment, "a"), ["t-0", "t-1", "u-0", "u-1"]);
        assert_eq!(assigned(&assignment, "b"), ["t-2", "u-2"]);
    }
}
