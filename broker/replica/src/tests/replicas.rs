//! Three replicas of one group, each on a disk of its own, on a network with partitions.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures::future::{BoxFuture, join_all, select_all};
use millstream_model::{NodeId, RaftGroupId};
use millstream_store::disk::sim::SimDisk;

use super::node::{GROUP, Node, run};
use crate::{Command, Group, PeerRequest, PeerResponse, PeerUnreachable, Timing, Transport};

/// Short, so that a failover is fast; long enough for a busy machine.
const TIMING: Timing = Timing { heartbeat_ms: 100, election_min_ms: 500, election_max_ms: 1000 };
const IDS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

/// The running replicas, and the broken links between them.
#[derive(Default)]
struct Network {
    replicas: Mutex<BTreeMap<NodeId, Arc<Group>>>,
    cut: Mutex<BTreeSet<(NodeId, NodeId)>>,
}

impl Network {
    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cut.lock().expect("no panic").contains(&(from, to))
    }

    /// Cuts a node off in both directions.
    fn isolate(&self, node: NodeId) {
        let mut cut = self.cut.lock().expect("no panic");
        cut.extend(
            IDS.iter().filter(|other| **other != node).flat_map(|other| [(node, *other), (*other, node)]),
        );
    }

    fn heal(&self) {
        self.cut.lock().expect("no panic").clear();
    }
}

/// A node's transport.
struct Link {
    from: NodeId,
    network: Arc<Network>,
}

impl Transport for Link {
    fn call(
        &self,
        to: NodeId,
        group: RaftGroupId,
        request: PeerRequest,
    ) -> BoxFuture<'static, Result<PeerResponse, PeerUnreachable>> {
        assert_eq!(group, GROUP);
        let (network, from) = (self.network.clone(), self.from);
        Box::pin(async move {
            let unreachable = |reason| PeerUnreachable { node: to, reason };
            let replica = network.replicas.lock().expect("no panic").get(&to).cloned();
            let replica = replica.filter(|_| !network.is_cut(from, to)).ok_or(unreachable("no link"))?;
            let response = replica.handle(request).await?;
            // The response can be lost even if the request was not.
            if network.is_cut(to, from) { Err(unreachable("no link back")) } else { Ok(response) }
        })
    }
}

/// Up to three nodes, and what has been acknowledged.
struct Cluster {
    network: Arc<Network>,
    nodes: BTreeMap<NodeId, Node>,
    acknowledged: Vec<Bytes>,
    proposed: usize,
}

impl Cluster {
    /// Three new nodes, each bootstrapped with all three.
    async fn start(seed: u64) -> Cluster {
        let (network, nodes) = (Arc::default(), BTreeMap::new());
        let mut cluster = Cluster { network, nodes, acknowledged: Vec::new(), proposed: 0 };
        for id in IDS {
            cluster.open(id, &SimDisk::new(seed * 10 + id.0)).await;
        }
        let voters = BTreeSet::from(IDS);
        let bootstrapped = join_all(cluster.nodes.values().map(|node| node.group.bootstrap(&voters))).await;
        // One that has received a request of a peer is no longer pristine.
        assert!(bootstrapped.into_iter().any(|first| first.unwrap_or(false)));
        cluster
    }

    async fn open(&mut self, id: NodeId, disk: &SimDisk) {
        let link = Link { from: id, network: self.network.clone() };
        let node = Node::open(disk, id, TIMING, Arc::new(link)).await.expect("it starts");
        self.network.replicas.lock().expect("no panic").insert(id, node.group.clone());
        self.nodes.insert(id, node);
    }

    async fn lose_power(&mut self, id: NodeId) -> SimDisk {
        self.network.replicas.lock().expect("no panic").remove(&id);
        self.nodes.remove(&id).expect("it runs").lose_power().await
    }

    /// Waits for a leader in a term above `term`.
    async fn leader_after(&self, term: u64) -> (NodeId, u64) {
        let leads = self
            .nodes
            .iter()
            .map(|(id, node)| Box::pin(async move { (*id, node.group.lead_after(term).await) }));
        select_all(leads).await.0
    }

    /// Writes until `count` commands are acknowledged, through the leader.
    async fn write(&mut self, count: usize) {
        let enough = self.acknowledged.len() + count;
        while self.acknowledged.len() < enough {
            let (id, term) = self.leader_after(0).await;
            self.proposed += 1;
            let command = Bytes::from(format!("command {}", self.proposed));
            if self.nodes[&id].group.write(term, Command::encoded(command.clone())).await.is_ok() {
                self.acknowledged.push(command);
            }
        }
    }

    /// Waits until all nodes have applied the last acknowledged command, then compares: all have the same
    /// commands, including all acknowledged ones, in order, each once.
    async fn check(&mut self) {
        // After this write every replica has everything before it, including what was never acknowledged.
        self.write(1).await;
        let last = self.acknowledged.last().expect("one was written").clone();
        join_all(self.nodes.values().map(|node| node.machine.wait_for(|applied| applied.contains(&last))))
            .await;
        let applied: Vec<Vec<Bytes>> = self.nodes.values().map(|node| node.machine.applied()).collect();
        assert!(applied.windows(2).all(|pair| pair[0] == pair[1]), "the replicas differ: {applied:?}");
        let kept: Vec<&Bytes> =
            applied[0].iter().filter(|command| self.acknowledged.contains(command)).collect();
        assert_eq!(kept, self.acknowledged.iter().collect::<Vec<_>>(), "lost, repeated or out of order");
    }
}

#[test]
fn three_replicas_apply_the_same_commands() {
    run(async {
        let mut cluster = Cluster::start(1).await;
        cluster.write(100).await;
        cluster.check().await;
    });
}

#[test]
fn a_leader_that_loses_power_is_replaced_and_catches_up() {
    run(async {
        let mut cluster = Cluster::start(2).await;
        for _ in 0..2 {
            cluster.write(20).await;
            let (leader, term) = cluster.leader_after(0).await;
            let disk = cluster.lose_power(leader).await;
            let (next, next_term) = cluster.leader_after(term).await;
            assert!(next != leader && next_term > term);
            cluster.write(20).await;
            cluster.open(leader, &disk).await;
            cluster.check().await;
        }
    });
}

#[test]
fn all_replicas_lose_power_at_once_and_lose_nothing() {
    run(async {
        let mut cluster = Cluster::start(3).await;
        cluster.write(30).await;
        let mut disks = Vec::new();
        for id in IDS {
            disks.push((id, cluster.lose_power(id).await));
        }
        for (id, disk) in &disks {
            cluster.open(*id, disk).await;
        }
        cluster.check().await;
    });
}

#[test]
fn a_leader_without_a_majority_acknowledges_nothing_and_what_it_held_is_discarded() {
    run(async {
        let mut cluster = Cluster::start(4).await;
        cluster.write(10).await;
        let (old, term) = cluster.leader_after(0).await;
        cluster.network.isolate(old);
        let alone = cluster.nodes[&old].group.clone();
        let stranded = tokio::spawn(async move {
            alone.write(term, Command::encoded(Bytes::from_static(b"stranded"))).await
        });
        let (next, next_term) = cluster.leader_after(term).await;
        assert_ne!(next, old);
        let command = Bytes::from_static(b"by the majority");
        let outcome = cluster.nodes[&next].group.write(next_term, Command::encoded(command.clone())).await;
        outcome.expect("two of three are enough");
        cluster.acknowledged.push(command);
        cluster.network.heal();
        let stranded = stranded.await.expect("no panic");
        assert!(stranded.is_err(), "acknowledged without a majority: {stranded:?}");
        cluster.check().await;
        assert!(!cluster.nodes[&old].machine.applied().contains(&Bytes::from_static(b"stranded")));
    });
}

#[test]
fn a_replica_that_was_away_while_the_log_was_purged_gets_the_checkpoint() {
    run(async {
        let mut cluster = Cluster::start(5).await;
        cluster.write(10).await;
        let (leader, term) = cluster.leader_after(0).await;
        let mut others = IDS.into_iter().filter(|id| *id != leader);
        let (away, follower) = (others.next().expect("three nodes"), others.next().expect("three nodes"));
        let disk_of_away = cluster.lose_power(away).await;
        cluster.write(10).await;
        // The follower, because openraft's leader keeps the entries that it is trying to send to the missing
        // replica.
        let (node, last) = (&cluster.nodes[&follower], cluster.acknowledged.last().cloned());
        node.machine.wait_for(|applied| applied.last() == last.as_ref()).await;
        let at = node.group.checkpoint().await.expect("written").expect("something is applied");
        node.group.purge(at.index).await.expect("asked");
        assert_eq!(node.wal.group(GROUP).state().purged, Some(at));
        let disk_of_leader = cluster.lose_power(leader).await;
        cluster.open(away, &disk_of_away).await;
        assert_eq!(cluster.leader_after(term).await.0, follower, "the other one lacks entries");
        cluster.write(10).await;
        cluster.open(leader, &disk_of_leader).await;
        cluster.check().await;
        let purged = cluster.nodes[&away].wal.group(GROUP).state().purged;
        assert!(purged >= Some(at), "it was sent entries that no log has any more: {purged:?}");
    });
}
