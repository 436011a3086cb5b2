//! The guarantees of a group without faults.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use millstream_model::LogId;
use millstream_store::{
    disk::{
        Disk,
        sim::{Op, SimDisk},
    },
    tables::Tables,
    wal::{Draft, FramePayload, ReadError, Wal},
};
use openraft::impls::leader_id_std::LeaderId;

use super::node::{GROUP, Node, run, wal_config};
use crate::{
    Command, ProposeError,
    config::Membership,
    log_store::{KIND_MEMBERSHIP, Vote, encode_vote},
    membership,
};

fn command(n: usize) -> Bytes {
    format!("command {n}").into()
}

#[test]
fn commands_are_applied_in_the_order_of_the_proposals() {
    run(async {
        let node = Node::start(&SimDisk::new(1)).await.expect("starts");
        let term = node.term();
        let outcomes = Arc::new(Mutex::new(Vec::new()));
        let (all, mut done) = tokio::sync::mpsc::channel::<()>(1);
        for n in 0..500 {
            let (outcomes, all) = (outcomes.clone(), all.clone());
            node.group.propose(term, Command::encoded(command(n)), move |outcome| {
                let (id, _) = outcome.expect("it is applied");
                outcomes.lock().expect("no panic").push((n, id));
                drop(all);
            });
        }
        drop(all);
        assert_eq!(done.recv().await, None, "every proposal got an outcome");
        assert_eq!(node.machine.applied(), (0..500).map(command).collect::<Vec<_>>());
        let outcomes = outcomes.lock().expect("no panic");
        assert!(
            outcomes.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1),
            "{outcomes:?}"
        );
        assert!(outcomes.iter().all(|(_, id)| id.term == term));
    });
}

/// Encoded in the log's memory.
struct Written(&'static [u8]);

impl FramePayload for Written {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn write(&self, out: &mut [u8]) {
        out.copy_from_slice(self.0);
    }
}

#[test]
fn a_staged_command_is_applied_as_it_was_written_into_the_log() {
    run(async {
        let node = Node::start(&SimDisk::new(2)).await.expect("starts");
        node.group.write(node.term(), Command::staged(Written(b"staged"))).await.expect("applied");
        assert_eq!(node.machine.applied(), [Bytes::from_static(b"staged")]);
    });
}

#[test]
fn a_proposal_of_another_term_is_refused() {
    run(async {
        let node = Node::start(&SimDisk::new(3)).await.expect("starts");
        let disk = node.lose_power().await;
        let node = Node::start(&disk).await.expect("starts again");
        let term = node.term();
        for other in [term - 1, term + 1, 0] {
            let outcome = node.group.write(other, Command::encoded(command(1))).await;
            assert!(
                matches!(outcome, Err(ProposeError::NotLeader)),
                "{outcome:?} in term {other}, not {term}"
            );
        }
        node.write(command(2)).await.expect("the led term is the right one");
        assert_eq!(node.machine.applied(), [command(2)]);
    });
}

#[test]
fn every_start_leads_in_a_term_of_its_own() {
    run(async {
        let mut disk = SimDisk::new(4);
        let mut terms = Vec::new();
        for n in 0..5 {
            let node = Node::start(&disk).await.expect("starts");
            terms.push(node.term());
            let (id, _) = node.write(command(n)).await.expect("applied");
            assert_eq!(id.term, node.term());
            disk = if n % 2 == 0 { node.lose_power().await } else { node.kill().await };
        }
        assert!(terms.windows(2).all(|pair| pair[0] < pair[1]), "{terms:?}");
    });
}

#[test]
fn what_was_checkpointed_and_purged_is_there_after_a_restart() {
    run(async {
        let mut disk = SimDisk::new(5);
        for round in 0..3 {
            let node = Node::start(&disk).await.expect("starts");
            assert_eq!(node.machine.applied(), (0..round * 20).map(command).collect::<Vec<_>>());
            for n in round * 20..round * 20 + 10 {
                node.write(command(n)).await.expect("applied");
            }
            let at = node.group.checkpoint().await.expect("written").expect("something is applied");
            node.group.purge(at.index).await.expect("asked");
            for n in round * 20 + 10..round * 20 + 20 {
                node.write(command(n)).await.expect("applied");
            }
            let log = node.wal.group(GROUP);
            assert_eq!(log.state().purged, Some(at));
            let purged = log.read(at.index..at.index + 1, 1);
            assert!(matches!(purged, Err(ReadError::Purged { .. })), "{purged:?}");
            disk = node.lose_power().await;
        }
    });
}

#[test]
fn a_purge_goes_no_further_than_the_checkpoint() {
    run(async {
        let node = Node::start(&SimDisk::new(6)).await.expect("starts");
        node.write(command(0)).await.expect("applied");
        node.group.purge(u64::MAX).await.expect("asked");
        assert_eq!(node.wal.group(GROUP).state().purged, None, "there is no checkpoint");
        node.write(command(1)).await.expect("applied");
        let at = node.group.checkpoint().await.expect("written").expect("something is applied");
        node.write(command(2)).await.expect("applied");
        node.group.purge(u64::MAX).await.expect("asked");
        assert_eq!(node.wal.group(GROUP).state().purged, Some(at));
        node.write(command(3)).await.expect("applied");
        let node = Node::start(&node.lose_power().await).await.expect("starts again");
        assert_eq!(node.machine.applied(), (0..4).map(command).collect::<Vec<_>>());
    });
}

#[test]
fn a_checkpoint_of_what_has_not_moved_is_the_one_that_is_there() {
    run(async {
        let node = Node::start(&SimDisk::new(7)).await.expect("starts");
        node.write(command(0)).await.expect("applied");
        let first = node.group.checkpoint().await.expect("written");
        // The log may still seal what it wrote.
        let changed = Arc::new(AtomicUsize::new(0));
        let counted = changed.clone();
        node.disk.set_hook(move |op, path| {
            if op.changes() && !path.starts_with("wal") {
                counted.fetch_add(1, SeqCst);
            }
        });
        assert_eq!(node.group.checkpoint().await.expect("nothing to do"), first);
        assert_eq!(changed.load(SeqCst), 0, "nothing was written");
        let (one, two) = tokio::join!(node.group.checkpoint(), node.group.checkpoint());
        assert_eq!((one.expect("there"), two.expect("there")), (first, first));
        node.write(command(1)).await.expect("applied");
        assert!(node.group.checkpoint().await.expect("written") > first);
        assert!(changed.load(SeqCst) > 0, "that one was");
    });
}

#[test]
fn a_checkpoint_that_finds_the_disk_full_is_an_error_and_no_end() {
    run(async {
        let node = Node::start(&SimDisk::new(11)).await.expect("starts");
        node.write(command(0)).await.expect("applied");
        let first = node.group.checkpoint().await.expect("written");
        for n in 1..4 {
            node.write(command(n)).await.expect("applied");
            node.disk.fail(Op::Write, "checkpoint", 1, io::ErrorKind::StorageFull);
            let error = node.group.checkpoint().await.expect_err("the disk is full").to_string();
            assert!(error.contains("checkpoint"), "{error}");
        }
        let (id, _) = node.write(command(4)).await.expect("the group goes on");
        let second = node.group.checkpoint().await.expect("there is room again");
        assert!(second >= Some(id) && second > first, "{first:?}, then {second:?}");
        let node = Node::start(&node.lose_power().await).await.expect("starts again");
        assert_eq!(node.machine.applied(), (0..5).map(command).collect::<Vec<_>>());
    });
}

#[test]
fn a_checkpoint_that_is_missing_is_named() {
    run(async {
        let node = Node::start(&SimDisk::new(12)).await.expect("starts");
        node.write(command(0)).await.expect("applied");
        let at = node.group.checkpoint().await.expect("written").expect("something is applied");
        node.group.purge(at.index).await.expect("asked");
        node.write(command(1)).await.expect("applied");
        let disk = node.lose_power().await;
        disk.remove(&Tables::checkpoint_path(GROUP)).expect("it was there");
        let refused = Node::start(&disk).await.err().expect("there is nothing to start from");
        assert!(refused.contains("checkpoint-00000003 is missing"), "{refused}");
    });
}

#[test]
fn checkpoints_that_nobody_waits_for_do_not_hold_up_the_next() {
    run(async {
        let node = Node::start(&SimDisk::new(8)).await.expect("starts");
        for n in 0..20 {
            let (id, _) = node.write(command(n)).await.expect("applied");
            // Started, and dropped at once.
            let given_up = tokio::time::timeout(std::time::Duration::ZERO, node.group.checkpoint()).await;
            if let Ok(at) = given_up {
                assert!(at.expect("written") >= Some(id));
            }
        }
        let (id, _) = node.write(command(20)).await.expect("applied");
        assert!(node.group.checkpoint().await.expect("written") >= Some(id));
    });
}

#[test]
fn a_log_that_is_longer_than_one_read_is_applied_again_whole() {
    run(async {
        let disk = SimDisk::new(9);
        let node = Node::start(&disk).await.expect("starts");
        let large = |n: usize| Bytes::from(vec![n as u8; 300 << 10]);
        for n in 0..40 {
            node.write(large(n)).await.expect("applied");
        }
        let last = node.wal.group(GROUP).state().last.expect("there are entries");
        node.wal.group(GROUP).release_memory(last.index);
        let node = Node::start(&node.lose_power().await).await.expect("starts again");
        let applied = node.machine.applied();
        assert_eq!(applied.len(), 40);
        assert!((0..40).all(|n| applied[n] == large(n)));
    });
}

#[test]
fn every_proposal_ends_once_even_when_the_group_ends() {
    run(async {
        let node = Node::start(&SimDisk::new(10)).await.expect("starts");
        let calls: Arc<Vec<AtomicUsize>> = Arc::new((0..300).map(|_| AtomicUsize::new(0)).collect());
        let (all, mut done) = tokio::sync::mpsc::channel::<()>(1);
        let term = node.term();
        for n in 0..300 {
            let (calls, all) = (calls.clone(), all.clone());
            node.group.propose(term, Command::encoded(command(n)), move |_| {
                calls[n].fetch_add(1, SeqCst);
                drop(all);
            });
            if n == 200 {
                node.group.shutdown().await;
            }
        }
        drop(all);
        assert_eq!(done.recv().await, None, "every proposal got an outcome");
        assert!(calls.iter().all(|count| count.load(SeqCst) == 1), "each once");
        assert_eq!(node.group.led_term(), None);
    });
}

#[test]
fn nobody_is_told_while_it_still_proposes() {
    // On a single thread a spawned task runs only when this one waits.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let node = Node::start(&SimDisk::new(12)).await.expect("starts");
        let term = node.term();
        node.group.shutdown().await;
        let held = Arc::new(Mutex::new(()));
        let (reply_tx, reply_rx) = tokio::sync::oneshot::channel();
        let guard = held.lock().expect("no panic");
        let taken = held.clone();
        node.group.propose(term, Command::encoded(command(0)), move |outcome| {
            let _ = reply_tx.send((taken.try_lock().is_ok(), outcome.is_err()));
        });
        drop(guard);
        assert_eq!(reply_rx.await, Ok((true, true)), "the lock is free, and nothing was applied");
    });
}

#[test]
fn a_group_that_is_dropped_stops() {
    run(async {
        let Node { group, machine, wal, tables, .. } = Node::start(&SimDisk::new(11)).await.expect("starts");
        group.write(1, Command::encoded(command(0))).await.expect("applied");
        drop(group);
        // The machine is dropped when the tasks of the replica have ended.
        while Arc::strong_count(&machine) > 1 {
            tokio::task::yield_now().await;
        }
        drop((wal, tables));
    });
}

/// The log of a group with this vote and, as its only entry, this membership.
fn log_with(vote: &[u8], members: Option<Vec<u8>>) -> SimDisk {
    let disk = SimDisk::new(13);
    let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
    drop(Tables::open(as_disk.clone(), Default::default()).expect("tables"));
    let (wal, _) = Wal::open(as_disk, wal_config(), &Default::default()).expect("opens");
    let log = wal.group(GROUP);
    if let Some(members) = members {
        let entry = Draft { id: LogId::new(0, 0), kind: KIND_MEMBERSHIP, payload: Bytes::from(members) };
        log.append([entry], |_| {}).expect("appended");
    }
    log.save_vote(vote, |_| {}).expect("voted");
    wal.shutdown();
    disk
}

fn members(voters: &[u64]) -> Vec<u8> {
    membership::encode(&Membership::new_with_defaults(vec![voters.iter().copied().collect()], []))
}

#[test]
fn who_belongs_to_a_group_is_never_made_up() {
    run(async {
        let vote = encode_vote(&Vote { leader_id: LeaderId { term: 4, voted_for: 1 }, committed: true });
        let cases = [
            (None, "shard-3 has lost its membership"),
            (Some(members(&[2])), "shard-3 belongs to node 2, and this is node 1"),
            (Some(members(&[1, 2, 5])), "shard-3 belongs to node 1 and node 2 and node 5"),
        ];
        for (members, said) in cases {
            let disk = log_with(&vote, members);
            let refused = Node::start(&disk).await.err().expect("no membership allows it to lead");
            assert!(refused.starts_with(said), "{refused}");
        }
        let node = Node::start(&log_with(&vote, Some(members(&[1])))).await.expect("it is alone");
        assert_eq!(node.term(), 5, "its terms go on");
    });
}
