//! The encoding of a group's membership, in membership entries and in checkpoints.
//!
//! Layout, little endian: version u8 = 2; count u8 of voter sets, each a u16 count and that many u64 node
//! ids; u16 count of nodes (voters and learners), each a u64 id. In version 1 each node's id is followed by a
//! u16 length and that many bytes of an address, which is ignored: members are known by id only.

use std::collections::BTreeSet;

use crate::config::Membership;

const VERSION: u8 = 2;
const VERSION_WITH_ADDRESSES: u8 = 1;

/// Why a membership cannot be decoded.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum MembershipError {
    #[error("the membership ends after {0} bytes")]
    Truncated(usize),
    #[error("membership version {0} is unknown; this broker reads versions 1 and {VERSION}")]
    Version(u8),
    #[error("the voter sets and nodes do not fit together: {0}")]
    Inconsistent(String),
    #[error("{0} bytes follow the membership")]
    Trailing(usize),
}

pub(crate) fn encode(membership: &Membership) -> Vec<u8> {
    let mut out = vec![VERSION, membership.get_joint_config().len() as u8];
    for voters in membership.get_joint_config() {
        out.extend((voters.len() as u16).to_le_bytes());
        voters.iter().for_each(|id| out.extend(id.to_le_bytes()));
    }
    let nodes: BTreeSet<u64> = membership.nodes().map(|(id, ())| *id).collect();
    out.extend((nodes.len() as u16).to_le_bytes());
    nodes.iter().for_each(|id| out.extend(id.to_le_bytes()));
    out
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Membership, MembershipError> {
    let mut input = Input { bytes, at: 0 };
    let version = input.u8()?;
    if !(VERSION_WITH_ADDRESSES..=VERSION).contains(&version) {
        return Err(MembershipError::Version(version));
    }
    let mut configs = Vec::new();
    for _ in 0..input.u8()? {
        let count = input.u16()?;
        configs.push((0..count).map(|_| input.u64()).collect::<Result<BTreeSet<u64>, _>>()?);
    }
    let mut nodes = BTreeSet::new();
    for _ in 0..input.u16()? {
        nodes.insert(input.u64()?);
        if version == VERSION_WITH_ADDRESSES {
            let length = input.u16()? as usize;
            input.take(length)?;
        }
    }
    if input.at < bytes.len() {
        return Err(MembershipError::Trailing(bytes.len() - input.at));
    }
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    if let Some(stranger) = configs.iter().flatten().find(|id| !nodes.contains(id)) {
        return Err(MembershipError::Inconsistent(format!("voter {stranger} is not a node")));
    }
    let nodes = nodes.into_iter().map(|id| (id, ())).collect::<std::collections::BTreeMap<_, _>>();
    Membership::new(configs, nodes).map_err(|e| MembershipError::Inconsistent(e.to_string()))
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], MembershipError> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or(MembershipError::Truncated(self.bytes.len()))?;
        let slice = &self.bytes[self.at..end];
        self.at = end;
        Ok(slice)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MembershipError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn u8(&mut self) -> Result<u8, MembershipError> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, MembershipError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, MembershipError> {
        Ok(u64::from_le_bytes(self.array()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership(voters: &[&[u64]], learners: &[u64]) -> Membership {
        let sets: Vec<BTreeSet<u64>> = voters.iter().map(|set| set.iter().copied().collect()).collect();
        Membership::new_with_defaults(sets, learners.iter().copied())
    }

    #[test]
    fn a_joint_membership_comes_back_as_it_was() {
        let joint = membership(&[&[1, 2, 3], &[2, 3]], &[4]);
        assert_eq!(decode(&encode(&joint)), Ok(joint));
        assert_eq!(decode(&encode(&Membership::default())), Ok(Membership::default()));
    }

    #[test]
    fn a_membership_with_addresses_of_an_earlier_build_is_read_without_them() {
        // One voter set {1}, one node: 1 at "a:9092".
        let old = b"\x01\x01\x01\0\x01\0\0\0\0\0\0\0\x01\0\x01\0\0\0\0\0\0\0\x06\0a:9092";
        assert_eq!(decode(old), Ok(membership(&[&[1]], &[])));
        for end in 0..old.len() {
            assert!(decode(&old[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = encode(&membership(&[&[1]], &[2]));
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert_eq!(decode(&longer), Err(MembershipError::Trailing(1)));
        assert_eq!(decode(&[3]), Err(MembershipError::Version(3)));
    }

    #[test]
    fn a_voter_that_is_no_node_is_an_error() {
        let bytes = b"\x02\x01\x01\0\x01\0\0\0\0\0\0\0\0\0";
        assert!(matches!(decode(bytes), Err(MembershipError::Inconsistent(_))));
    }
}
