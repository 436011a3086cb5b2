//! Random sequences of events: every request is answered once, every invariant holds after every event, what
//! was acknowledged survives a failover, and once all clients behave the group becomes stable again.

use proptest::prelude::*;

use super::*;

/// One event; members and groups are numbers that are taken modulo the existing ones.
#[derive(Clone, Debug)]
enum Event {
    JoinNew { instance: Option<u8>, two_steps: bool },
    JoinAgain { who: usize, changed: bool },
    Sync { who: usize, lie: i32 },
    Heartbeat { who: usize },
    Leave { who: usize },
    Commit { who: usize },
    Pass { ms: u64 },
    Hold { hold: bool },
    FailWrite,
    FailOver,
}

fn event() -> impl Strategy<Value = Event> {
    let who = 0..6_usize;
    prop_oneof![
        3 => (proptest::option::of(0..3_u8), any::<bool>())
            .prop_map(|(instance, two_steps)| Event::JoinNew { instance, two_steps }),
        6 => (who.clone(), any::<bool>()).prop_map(|(who, changed)| Event::JoinAgain { who, changed }),
        8 => (who.clone(), prop_oneof![9 => Just(0), 1 => -1..2]).prop_map(|(who, lie)| Event::Sync { who, lie }),
        4 => who.clone().prop_map(|who| Event::Heartbeat { who }),
        2 => who.clone().prop_map(|who| Event::Leave { who }),
        3 => who.prop_map(|who| Event::Commit { who }),
        4 => prop_oneof![0..2_000_u64, 0..70_000_u64].prop_map(|ms| Event::Pass { ms }),
        2 => any::<bool>().prop_map(|hold| Event::Hold { hold }),
        1 => Just(Event::FailWrite),
        1 => Just(Event::FailOver),
    ]
}

/// A client's view of its membership.
#[derive(Clone, Debug, Default)]
struct Client {
    id: Arc<str>,
    instance: Option<Arc<str>>,
    generation: i32,
    leads: bool,
    others: Vec<Arc<str>>,
}

struct Simulation {
    harness: GroupHarness,
    clients: Vec<Client>,
    /// Joins in flight: ticket and client.
    joins: Vec<(Ticket, usize)>,
    /// The highest offset whose commit was acknowledged.
    acknowledged: Option<i64>,
    next_offset: i64,
}

const GROUP: &str = "g";

impl Simulation {
    fn new() -> Simulation {
        let config = GroupConfig { members_max: 5, ..GroupConfig::default() };
        let harness = GroupHarness::with(config);
        Simulation { harness, clients: Vec::new(), joins: Vec::new(), acknowledged: None, next_offset: 0 }
    }

    fn request(&self, client: &Client, changed: bool) -> JoinRequest {
        let topic = if changed { "u" } else { "t" };
        JoinRequest {
            instance_id: client.instance.clone(),
            protocols: vec![("range".into(), subscription(topic))],
            ..joining(GROUP, &client.id)
        }
    }

    fn who(&self, client: &Client) -> MemberRef {
        MemberRef {
            id: client.id.clone(),
            instance_id: client.instance.clone(),
            generation: client.generation,
        }
    }

    fn send_join(&mut self, at: usize, changed: bool, two_steps: bool) {
        let request = JoinRequest { two_steps, ..self.request(&self.clients[at], changed) };
        let ticket = self.harness.join(request);
        self.joins.push((ticket, at));
        self.hear();
    }

    /// Clients read their answers.
    fn hear(&mut self) {
        let mut left = Vec::new();
        for (ticket, at) in std::mem::take(&mut self.joins) {
            if !self.harness.has_joined(ticket) {
                left.push((ticket, at));
                continue;
            }
            let client = &mut self.clients[at];
            match self.harness.joined(ticket) {
                Ok(joined) => {
                    client.id = joined.member_id.clone();
                    client.generation = joined.generation;
                    client.leads = joined.leader == joined.member_id;
                    client.others = joined.members.into_iter().map(|member| member.id).collect();
                    assert!(client.leads || client.others.is_empty(), "only a leader sees the members");
                }
                Err(refusal) if refusal.error == GroupError::MemberIdRequired => {
                    client.id = refusal.member_id
                }
                Err(refusal) if refusal.error == GroupError::UnknownMember => client.id = Arc::default(),
                Err(_) => {}
            }
        }
        self.joins = left;
    }

    fn sync(&mut self, at: usize, lie: i32) -> Ticket {
        let client = self.clients[at].clone();
        let mut member = self.who(&client);
        member.generation += lie;
        let share = |id: &Arc<str>| (id.clone(), Bytes::copy_from_slice(id.as_bytes()));
        let assignments = client.others.iter().map(share).collect();
        self.harness.sync_with(SyncRequest {
            group: GROUP.into(),
            member,
            assignments,
            ..SyncRequest::default()
        })
    }

    fn act(&mut self, event: Event) {
        let count = self.clients.len();
        let pick = |who: usize| (count > 0).then(|| who % count);
        match event {
            Event::JoinNew { instance, two_steps } => {
                let instance = instance.map(|n| Arc::from(format!("i{n}")));
                self.clients.push(Client { instance, ..Client::default() });
                self.send_join(count, false, two_steps);
            }
            Event::JoinAgain { who, changed } => {
                if let Some(at) = pick(who) {
                    self.send_join(at, changed, true);
                }
            }
            Event::Sync { who, lie } => {
                if let Some(at) = pick(who) {
                    self.sync(at, lie);
                }
            }
            Event::Heartbeat { who } => {
                if let Some(at) = pick(who) {
                    let who = self.who(&self.clients[at]);
                    let _ = self.harness.heartbeat(GROUP, &who);
                }
            }
            Event::Leave { who } => {
                if let Some(at) = pick(who) {
                    let who = self.who(&self.clients[at]);
                    self.harness.leave(GROUP, &[who]);
                }
            }
            Event::Commit { who } => self.commit(pick(who)),
            Event::Pass { ms } => self.harness.pass(ms),
            Event::Hold { hold: true } => self.harness.hold = true,
            Event::Hold { hold: false } => self.harness.release(),
            Event::FailWrite => {
                if self.harness.hold {
                    self.harness.write_one(Err(GroupError::Unavailable));
                    self.harness.settle();
                }
            }
            Event::FailOver => {
                self.harness.fail_over();
                let kept = self.harness.machine.group(GROUP).and_then(|g| g.offset("t", 0)).map(|c| c.offset);
                assert!(kept >= self.acknowledged, "{kept:?} after {:?} was acknowledged", self.acknowledged);
            }
        }
        self.hear();
    }

    fn commit(&mut self, at: Option<usize>) {
        let who = at.map_or(member("", -1), |at| self.who(&self.clients[at]));
        self.next_offset += 1;
        if self.harness.commit(GROUP, &who, self.next_offset).is_ok() && !self.harness.hold {
            self.acknowledged = Some(self.next_offset);
        }
    }

    /// From now on all clients behave: they join until they are in one generation, and sync.
    fn converge(&mut self) {
        self.harness.release();
        self.hear();
        self.clients.truncate(4);
        self.joins.retain(|(_, at)| *at < 4);
        let mut instances = std::collections::BTreeSet::new();
        self.clients.retain(|client| client.instance.as_ref().is_none_or(|i| instances.insert(i.clone())));
        self.joins.clear();
        for client in &mut self.clients {
            *client = Client { instance: client.instance.clone(), ..Client::default() };
        }
        // Other members of the group send nothing until they are removed.
        for _ in 0..8 {
            self.harness.pass(100_000);
        }
        for _ in 0..8 {
            for at in 0..self.clients.len() {
                if !self.joins.iter().any(|(_, waiting)| *waiting == at) {
                    self.send_join(at, false, true);
                }
            }
        }
        let generations: Vec<i32> = self.clients.iter().map(|client| client.generation).collect();
        assert!(generations.windows(2).all(|pair| pair[0] == pair[1]), "{:?}", self.clients);
        let syncs: Vec<Ticket> = (0..self.clients.len()).map(|at| self.sync(at, 0)).collect();
        for (client, sync) in self.clients.iter().zip(syncs) {
            assert_eq!(self.harness.synced(sync).as_deref(), Ok(client.id.as_bytes()), "{client:?}");
        }
        let expected = if self.clients.is_empty() { None } else { Some(Phase::Stable) };
        assert_eq!(self.harness.phase(GROUP).filter(|phase| *phase != Phase::Empty), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_invariants_hold_and_the_group_comes_to_rest(events in prop::collection::vec(event(), 0..80)) {
        let mut simulation = Simulation::new();
        events.into_iter().for_each(|event| simulation.act(event));
        simulation.converge();
    }
}
