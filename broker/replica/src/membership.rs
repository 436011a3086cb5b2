//! The membership of a group, as bytes: in membership entries and in checkpoints.
//!
//! Layout, little endian: version u8 = 1; count u8 of voter sets, each a u16 count and that many u64 node ids;
//! u16 count of nodes, each u64 id, u16 length and that many bytes of UTF-8 address.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::{Membership, Peer};

const VERSION: u8 = 1;

/// Why bytes are not a membership.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum MembershipError {
    #[error("the membership ends after {0} bytes")]
    Truncated(usize),
    #[error("membership version {0} is unknown; this broker reads version {VERSION}")]
    Version(u8),
    #[error("a node's address is not UTF-8")]
    Address,
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
    let nodes: BTreeMap<_, _> = membership.nodes().collect();
    out.extend((nodes.len() as u16).to_le_bytes());
    for (id, peer) in nodes {
        out.extend(id.to_le_bytes());
        out.extend((peer.address.len() as u16).to_le_bytes());
        out.extend(peer.address.as_bytes());
    }
    out
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Membership, MembershipError> {
    let mut input = Input { bytes, at: 0 };
    let version = input.u8()?;
    if version != VERSION {
        return Err(MembershipError::Version(version));
    }
    let mut configs = Vec::new();
    for _ in 0..input.u8()? {
        let count = input.u16()?;
        configs.push((0..count).map(|_| input.u64()).collect::<Result<BTreeSet<u64>, _>>()?);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..input.u16()? {
        let id = input.u64()?;
        let length = input.u16()? as usize;
        let address = std::str::from_utf8(input.take(length)?).map_err(|_| MembershipError::Address)?;
        nodes.insert(id, Peer { address: address.to_string() });
    }
    if input.at < bytes.len() {
        return Err(MembershipError::Trailing(bytes.len() - input.at));
    }
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
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

    #[test]
    fn a_joint_membership_comes_back_as_it_was() {
        let nodes =
            (1..=4).map(|id| (id, Peer { address: format!("h{id}:9093") })).collect::<BTreeMap<_, _>>();
        let sets = vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([2, 3])];
        let membership = Membership::new(sets, nodes).expect("a valid membership");
        assert_eq!(decode(&encode(&membership)), Ok(membership));
        assert_eq!(decode(&encode(&Membership::default())), Ok(Membership::default()));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let nodes = BTreeMap::from([(1, Peer { address: "a:1".into() })]);
        let membership = Membership::new(vec![BTreeSet::from([1])], nodes).expect("valid");
        let bytes = encode(&membership);
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert_eq!(decode(&longer), Err(MembershipError::Trailing(1)));
    }
}
