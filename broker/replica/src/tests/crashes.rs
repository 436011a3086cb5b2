//! Power cuts at every moment of a run, and disk faults.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use millstream_store::disk::{
    Disk,
    sim::{Op, SimDisk},
};

use super::node::{Node, run};
use crate::{Command, ProposeError};

const COMMANDS: usize = 12;

fn command(life: usize, n: usize) -> Bytes {
    format!("life {life} command {n}").into()
}

/// One lifetime of a node: what it proposed, in order, and which proposals were acknowledged.
#[derive(Default)]
struct Life {
    proposed: Vec<Bytes>,
    acknowledged: Vec<Bytes>,
}

/// Starts, proposes in twos and threes, with checkpoints and purges in between; ends when the disk stops
/// working.
async fn live(disk: &SimDisk, life: usize, known: &mut Life) -> Option<Node> {
    let node = Node::start(disk).await.ok()?;
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    for n in 0..COMMANDS {
        let Some(term) = node.group.led_term() else { break };
        let (all, mut done) = tokio::sync::mpsc::channel::<()>(1);
        for part in 0..1 + n % 3 {
            let (acknowledged, all, command) =
                (acknowledged.clone(), all.clone(), command(life, n * 3 + part));
            known.proposed.push(command.clone());
            node.group.propose(term, Command::encoded(command.clone()), move |outcome| {
                if outcome.is_ok() {
                    acknowledged.lock().expect("no panic").push(command);
                }
                drop(all);
            });
        }
        drop(all);
        // Every proposal gets an outcome, whatever happens to the disk.
        assert_eq!(done.recv().await, None);
        if n % 4 == 3
            && let Ok(Some(at)) = node.group.checkpoint().await
        {
            let _ = node.group.purge(at.index).await;
        }
    }
    known.acknowledged.extend(acknowledged.lock().expect("no panic").drain(..));
    Some(node)
}

/// The applied proposals of each lifetime are a prefix of what it proposed that includes everything
/// acknowledged.
fn check(applied: &[Bytes], lives: &[Life], moment: &str) {
    let mut rest = applied;
    for (at, life) in lives.iter().enumerate() {
        let count =
            rest.iter().zip(&life.proposed).take_while(|(applied, proposed)| applied == proposed).count();
        let (mine, others) = rest.split_at(count);
        assert!(
            life.acknowledged.iter().all(|command| mine.contains(command)),
            "{moment}: life {at} was acknowledged {:?}, and of it there is {mine:?}",
            life.acknowledged
        );
        rest = others;
    }
    assert!(rest.is_empty(), "{moment}: {rest:?} was never proposed so");
}

#[test]
fn a_power_cut_at_any_moment_loses_nothing_that_was_acknowledged() {
    run(async {
        let whole = SimDisk::new(7);
        let mut first = Life::default();
        let node = live(&whole, 0, &mut first).await.expect("nothing fails");
        assert_eq!(first.acknowledged, first.proposed, "without a fault all is acknowledged");
        drop(node);
        let moments = whole.changes();
        assert!(moments > 40, "only {moments} operations");
        for moment in 0..moments {
            let mut lives = vec![Life::default(), Life::default()];
            let disk = SimDisk::new(moment);
            disk.cut_power_after(moment);
            let node = live(&disk, 0, &mut lives[0]).await;
            let disk = match node {
                Some(node) => node.lose_power().await,
                None => disk.crash(),
            };
            let node = live(&disk, 1, &mut lives[1]).await.expect("the second life has no faults");
            check(&node.machine.applied(), &lives, &format!("cut after {moment} of {moments}"));
            let disk = node.lose_power().await;
            let node = Node::start(&disk).await.expect("starts a third time");
            check(&node.machine.applied(), &lives, &format!("third life, cut after {moment}"));
        }
    });
}

#[test]
fn a_disk_that_fails_ends_the_group_and_acknowledges_nothing() {
    run(async {
        let disk = SimDisk::new(8);
        let node = Node::start(&disk).await.expect("starts");
        node.write(command(0, 0)).await.expect("applied");
        // Files that are prepared in the background may fail and be tried again: this one is in use.
        let files = disk.list(Path::new("wal")).expect("lists");
        let names = files.iter().map(|(name, _)| name).filter(|name| name.starts_with("wal-"));
        let in_use = names.min().expect("a file");
        disk.fail(Op::Write, in_use, 1, io::ErrorKind::Other);
        let outcome = node.write(command(0, 1)).await;
        assert!(matches!(outcome, Err(ProposeError::Unknown)), "{outcome:?}");
        assert_eq!(node.machine.applied(), [command(0, 0)]);
        let after = node.group.write(1, Command::encoded(command(0, 2))).await;
        assert!(after.is_err(), "{after:?}");
        assert!(node.group.checkpoint().await.is_err(), "the replica is gone");
        let node = Node::start(&node.lose_power().await).await.expect("starts again");
        assert_eq!(node.machine.applied()[0], command(0, 0));
    });
}
