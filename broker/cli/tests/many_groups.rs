//! Ten thousand consumer groups with one member each, on one node.
#![allow(missing_docs)]

mod common;

use bytes::Bytes;
use common::{Broker, client::Client};
use millstream_protocol::{
    ErrorCode, Request,
    messages::{
        heartbeat::HeartbeatRequest,
        join_group::{JoinGroupRequest, JoinGroupRequestProtocol},
        list_groups::ListGroupsRequest,
        sync_group::{SyncGroupRequest, SyncGroupRequestAssignment},
    },
};

const GROUPS: usize = 10_000;
/// Requests in flight at a time.
const IN_FLIGHT: usize = 50;
/// The broker's memory per group, with its member, its connection and everything else included.
const GROUP_BYTES_MAX: u64 = 16_000;

fn name(n: usize) -> String {
    format!("group-{n:05}")
}

/// Sends a request for every group, several at a time; returns the replies in the order of the groups.
fn for_all<R: Request>(
    client: &mut Client,
    version: i16,
    request: impl Fn(usize) -> R,
    mut look: impl FnMut(usize, R::Response),
) {
    for from in (0..GROUPS).step_by(IN_FLIGHT) {
        let wave = from..(from + IN_FLIGHT).min(GROUPS);
        wave.clone().for_each(|n| client.send(version, &request(n)));
        wave.for_each(|n| look(n, client.receive::<R>(version)));
    }
}

fn join(client: &mut Client) -> Vec<String> {
    let request = |n| JoinGroupRequest {
        group_id: name(n).into(),
        session_timeout_ms: 300_000,
        rebalance_timeout_ms: 300_000,
        protocol_type: "consumer".into(),
        protocols: vec![JoinGroupRequestProtocol {
            name: "range".into(),
            metadata: Bytes::from_static(&[0; 30]),
        }],
        ..Default::default()
    };
    let mut members = Vec::with_capacity(GROUPS);
    // Version 3 is the last with a one-step join.
    for_all(client, 3, request, |n, joined| {
        assert_eq!((ErrorCode(joined.error_code), joined.generation_id), (ErrorCode::NONE, 1), "{}", name(n));
        members.push(joined.member_id.to_string());
    });
    members
}

fn sync(client: &mut Client, members: &[String]) {
    let request = |n: usize| SyncGroupRequest {
        group_id: name(n).into(),
        generation_id: 1,
        member_id: members[n].clone().into(),
        assignments: vec![SyncGroupRequestAssignment {
            member_id: members[n].clone().into(),
            assignment: Bytes::from_static(&[1; 60]),
        }],
        ..Default::default()
    };
    for_all(client, 3, request, |n, synced| {
        assert_eq!(
            (ErrorCode(synced.error_code), synced.assignment.len()),
            (ErrorCode::NONE, 60),
            "{}",
            name(n)
        );
    });
}

fn heartbeat(client: &mut Client, members: &[String]) {
    let request = |n: usize| HeartbeatRequest {
        group_id: name(n).into(),
        generation_id: 1,
        member_id: members[n].clone().into(),
        ..Default::default()
    };
    for_all(client, 3, request, |n, beat| {
        assert_eq!(ErrorCode(beat.error_code), ErrorCode::NONE, "{}", name(n))
    });
}

fn resident_bytes(broker: &Broker) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", broker.pid())).expect("a process");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    resident.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

#[test]
fn ten_thousand_groups_live_on_one_node_and_through_kill_9() {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = Broker::start(dir.path());
    let mut client = Client::connect(&broker);
    let before = resident_bytes(&broker);
    let members = join(&mut client);
    sync(&mut client, &members);
    heartbeat(&mut client, &members);
    let grown = resident_bytes(&broker).saturating_sub(before);
    assert!(grown < GROUP_BYTES_MAX * GROUPS as u64, "{grown} bytes for {GROUPS} groups");
    println!("{} bytes for a group", grown / GROUPS as u64);
    drop(broker); // kill -9
    let broker = Broker::start(dir.path());
    let mut client = Client::connect(&broker);
    heartbeat(&mut client, &members);
    let listed = client.ask_newest(&ListGroupsRequest::default());
    assert_eq!(ErrorCode(listed.error_code), ErrorCode::NONE);
    assert_eq!(listed.groups.len(), GROUPS);
    assert!(listed.groups.iter().all(|group| &*group.group_state == "Stable"));
}
