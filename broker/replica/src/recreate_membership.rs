//! What a repair of a damaged log may write for a group that has lost its first entry.
//!
//! The first entry of every group is its initial membership, and no group starts without one. On a node that
//! is the only member of its groups that entry is known without being read: node and position are the same
//! for every group. In a cluster it is unknown and never guessed: a node that invented the membership of its
//! group could lead beside the other members. So everything found must name the same single node, and where
//! no membership is left at all, the identity file that the node wrote when it started alone ([`identity`])
//! and all votes must name it.

use std::collections::BTreeMap;

use bytes::Bytes;
use millstream_model::{LogId, NodeId, RaftGroupId};
use millstream_store::doctor::{Beginning, RecreatedMembership, Replicas};
use openraft::impls::leader_id_std::LeaderId;

use crate::{
    config::Membership,
    log_store::{KIND_MEMBERSHIP, Vote, decode_vote, encode_vote},
    machine::checkpoint_members,
    membership,
};

/// What the doctor must know of replicas.
pub const REPLICAS: Replicas = Replicas {
    membership_kind: Some(KIND_MEMBERSHIP),
    checkpoint_members: Some(checkpoint_members),
    recreate_membership: Some(recreate),
};

/// Each start takes a term. The number of lost votes is unknown, so this many terms are skipped: a term that
/// clients have seen must not return with other records.
const LOST_TERMS: u64 = 100;

/// The content of the file that a node has in its data directory from its first start on while it is the only
/// one of its cluster. A node that gets peers must remove it before they join any of its groups.
pub fn identity(node: NodeId) -> String {
    format!("millstream 1\nnode {}\nalone\n", node.0)
}

fn node_of(identity: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(identity).ok()?;
    text.strip_prefix("millstream 1\nnode ")?.strip_suffix("\nalone\n")?.parse().ok()
}

fn recreate(
    found: &BTreeMap<RaftGroupId, Beginning>,
    identity: Option<&[u8]>,
    votes_uncertain: bool,
) -> Option<RecreatedMembership> {
    let votes: Vec<Vote> = found
        .values()
        .filter_map(|group| group.vote.as_deref())
        .map(decode_vote)
        .collect::<Result<_, _>>()
        .ok()?;
    let (node, members) = only_member(found, identity)?;
    if votes.iter().any(|vote| vote.leader_id.voted_for != node) {
        return None;
    }
    let terms =
        votes.iter().map(|vote| vote.leader_id.term).chain(found.values().map(|group| group.term_max));
    let term = terms.max().unwrap_or_default() + if votes_uncertain { LOST_TERMS } else { 0 };
    let vote = Vote { leader_id: LeaderId { term, voted_for: node }, committed: false };
    Some(RecreatedMembership {
        // The log id that openraft gives a group's first membership.
        id: LogId::new(0, 0),
        kind: KIND_MEMBERSHIP,
        members,
        vote: Bytes::copy_from_slice(&encode_vote(&vote)),
    })
}

/// The only node of all groups, with the encoded membership.
fn only_member(found: &BTreeMap<RaftGroupId, Beginning>, identity: Option<&[u8]>) -> Option<(u64, Bytes)> {
    let memberships = found.values().flat_map(|group| &group.memberships);
    let named: Vec<(u64, &Bytes)> = memberships
        .map(|bytes| Some((only_node(&membership::decode(bytes).ok()?)?, bytes)))
        .collect::<Option<_>>()?;
    let Some((node, members)) = named.first() else {
        let node = node_of(identity?)?;
        let alone = Membership::new_with_defaults(vec![[node].into()], [node]);
        return Some((node, membership::encode(&alone).into()));
    };
    named.iter().all(|(other, _)| other == node).then(|| (*node, (*members).clone()))
}

/// The node of a membership that has no other, not even as a learner.
fn only_node(membership: &Membership) -> Option<u64> {
    let mut nodes = membership.nodes().map(|(id, ())| *id);
    let node = nodes.next().filter(|_| nodes.next().is_none())?;
    membership.voter_ids().eq([node]).then_some(node)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn members(voters: &[u64], learners: &[u64]) -> Bytes {
        let voters: BTreeSet<u64> = voters.iter().copied().collect();
        membership::encode(&Membership::new_with_defaults(vec![voters], learners.iter().copied())).into()
    }

    fn vote(term: u64, voted_for: u64) -> Option<Bytes> {
        let vote = Vote { leader_id: LeaderId { term, voted_for }, committed: true };
        Some(Bytes::copy_from_slice(&encode_vote(&vote)))
    }

    fn found(groups: &[(Option<Bytes>, u64, Vec<Bytes>)]) -> BTreeMap<RaftGroupId, Beginning> {
        let beginning = |(vote, term_max, memberships): &(Option<Bytes>, u64, Vec<Bytes>)| Beginning {
            vote: vote.clone(),
            term_max: *term_max,
            memberships: memberships.clone(),
        };
        (0..).map(RaftGroupId).zip(groups.iter().map(beginning)).collect()
    }

    fn term_of(recreated: &RecreatedMembership) -> u64 {
        let vote = decode_vote(&recreated.vote).expect("a vote");
        assert!(!vote.committed && vote.leader_id.voted_for == 1, "{vote:?}");
        vote.leader_id.term
    }

    #[test]
    fn a_node_that_is_alone_everywhere_gets_its_membership_back_and_a_vote_above_all_terms() {
        let one = members(&[1], &[]);
        let groups = found(&[
            (None, 0, vec![]),
            (vote(3, 1), 3, vec![one.clone()]),
            (vote(2, 1), 5, vec![one.clone()]),
        ]);
        let recreated = recreate(&groups, None, false).expect("alone");
        assert_eq!((recreated.id, &recreated.members, term_of(&recreated)), (LogId::new(0, 0), &one, 5));
        assert_eq!(term_of(&recreate(&groups, None, true).expect("alone")), 5 + LOST_TERMS);
    }

    #[test]
    fn a_node_with_possible_peers_gets_no_membership() {
        let one = members(&[1], &[]);
        let alone = identity(NodeId(1));
        let with_others =
            [members(&[1, 2, 3], &[]), members(&[1], &[2]), members(&[2], &[]), Bytes::from_static(&[9])];
        for other in with_others {
            let groups = found(&[(None, 0, vec![]), (vote(3, 1), 3, vec![one.clone(), other.clone()])]);
            assert_eq!(recreate(&groups, Some(alone.as_bytes()), false), None, "{other:?}");
        }
        let elsewhere = found(&[(vote(3, 2), 3, vec![one.clone()])]);
        assert_eq!(
            recreate(&elsewhere, Some(alone.as_bytes()), false),
            None,
            "it has voted for another node"
        );
        let unread = found(&[(Some(Bytes::from_static(b"?")), 3, vec![one])]);
        assert_eq!(recreate(&unread, Some(alone.as_bytes()), false), None);
    }

    #[test]
    fn without_any_membership_the_identity_and_all_votes_decide() {
        let groups = found(&[(vote(3, 1), 3, vec![]), (None, 4, vec![])]);
        assert_eq!(recreate(&groups, None, false), None);
        let recreated = recreate(&groups, Some(identity(NodeId(1)).as_bytes()), false).expect("alone");
        assert_eq!(term_of(&recreated), 4);
        assert_eq!(only_node(&membership::decode(&recreated.members).expect("a membership")), Some(1));
        for other in
            [identity(NodeId(2)), "millstream 1\nnode 1\n".into(), "millstream 2\nnode 1\nalone\n".into()]
        {
            assert_eq!(recreate(&groups, Some(other.as_bytes()), false), None, "{other:?}");
        }
    }
}
