//! Decides what to merge, and runs one merge at a time.
//!
//! A merge takes *parts*, not whole runs: it writes the parts of some partitions from some runs to a new run,
//! which makes the old ones dead, because a newer run wins. So large parts of a busy partition stay in place
//! while small ones move together, and a compacted partition does not affect its neighbours. A run without
//! live parts is dropped; one that is mostly dead is emptied by moving the rest.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use millstream_model::PartitionId;

use super::{
    MergeError, Tables,
    compact::{self, Attempts},
    job::Task,
    run::{Part, Run},
};

/// Smallest size class of small parts; each class is four times the previous one.
const CLASS_BYTES: u64 = 1 << 10;
/// Merges that join little still run if they are smaller than this: they reduce the number of runs.
const CHEAP_BYTES: u64 = 64 << 20;
/// Number of runs of one class that are considered as the seed of a merge, oldest first.
const SEEDS_MAX: usize = 64;

/// The compaction policy of a topic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CompactPolicy {
    /// Milliseconds since the Unix epoch.
    pub now_ms: i64,
    /// Milliseconds for which a tombstone stays after it was first compacted.
    pub delete_retention_ms: i64,
    /// Milliseconds for which a record is not compacted.
    pub min_lag_ms: i64,
    /// Milliseconds after which an uncompacted record starts a compaction, however little there is to do.
    pub max_lag_ms: i64,
    /// Share of uncompacted bytes that starts a compaction.
    pub min_dirty_ratio: f64,
}

/// How to treat a partition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PartitionPolicy {
    /// Whether it exists; only a partition whose id never returns may be called dead.
    pub live: bool,
    /// Offsets below this one are deleted.
    pub log_start: i64,
    /// The compaction policy; `None` if the topic is not compacted.
    pub compact: Option<CompactPolicy>,
}

/// The result of a merge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MergeOutcome {
    /// Runs from which something was moved.
    pub merged_runs: usize,
    /// Runs dropped whole.
    pub dropped_runs: usize,
    /// Partitions compacted.
    pub compacted_partitions: usize,
    /// Bytes written.
    pub written_bytes: u64,
    /// Whether the pace callback asked to stop.
    pub stopped: bool,
}

/// State kept between merges.
#[derive(Default)]
pub(super) struct MergeState {
    pub(super) attempts: Attempts,
    /// Counts merges, so that no kind starves the others.
    turn: usize,
}

/// The reason for a merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Compaction,
    Locality,
    Reclaim,
}

const REASONS: [Reason; 3] = [Reason::Compaction, Reason::Locality, Reason::Reclaim];

/// The live parts of one run.
struct Alive {
    run: Arc<Run>,
    live_bytes: u64,
    /// Sizes of its small parts.
    small: Vec<u32>,
    first: PartitionId,
    last: PartitionId,
}

impl Alive {
    /// Size class of the median small part.
    fn class(&mut self) -> Option<u32> {
        let middle = self.small.len() / 2;
        self.small.get(middle)?;
        let (_, &mut median, _) = self.small.select_nth_unstable(middle);
        Some((u64::from(median) / CLASS_BYTES).max(1).ilog(4))
    }

    fn is_mostly_dead(&self) -> bool {
        self.run.data_bytes > 0 && self.live_bytes * 2 <= self.run.data_bytes
    }

    fn meets(&self, other: &Alive) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// The input of a decision.
struct Survey {
    partitions: Vec<PartitionId>,
    runs: BTreeMap<u64, Alive>,
    compactable: Vec<(PartitionId, CompactPolicy)>,
    /// When time alone makes the next compaction due.
    due_ms: i64,
}

impl Tables {
    /// Runs one bounded merge, if one is due. Blocks. The policy is called for each partition that has a run.
    pub fn merge_once(
        &self,
        policy: &dyn Fn(PartitionId) -> PartitionPolicy,
    ) -> Result<MergeOutcome, MergeError> {
        let mut state = self.merging.lock();
        self.sweep_retired();
        let survey = self.survey(policy, &mut state.attempts);
        self.compaction_due_ms.store(survey.due_ms, Relaxed);
        let dropped_runs = self.drop_dead_runs()?;
        if dropped_runs > 0 {
            self.sweep_retired();
            return Ok(MergeOutcome { dropped_runs, ..MergeOutcome::default() });
        }
        let Some((reason, tasks)) = self.choose(survey, state.turn) else {
            return Ok(MergeOutcome::default());
        };
        state.turn = reason as usize + 1;
        let mut outcome = self.run_job(&tasks, &mut state.attempts)?;
        drop(tasks);
        if !outcome.stopped {
            outcome.dropped_runs = self.drop_dead_runs()?;
            self.sweep_retired();
        }
        Ok(outcome)
    }

    /// Inspects every partition, and drops those that the policy calls dead.
    fn survey(&self, policy: &dyn Fn(PartitionId) -> PartitionPolicy, attempts: &mut Attempts) -> Survey {
        let mut survey = Survey {
            partitions: Vec::new(),
            runs: BTreeMap::new(),
            compactable: Vec::new(),
            due_ms: i64::MAX,
        };
        for partition in self.directory.partitions() {
            let policy = policy(partition);
            if !policy.live {
                self.directory.drop_partition(partition);
                attempts.forget(partition);
                continue;
            }
            self.directory.set_log_start(partition, policy.log_start);
            self.directory.look(partition, |parts, log_start| {
                parts
                    .iter()
                    .for_each(|part| survey.count(partition, part, log_start, self.config.small_part_bytes));
                let Some(compact) = policy.compact else { return };
                let stats = compact::dirty_stats(parts, &compact);
                survey.due_ms = survey.due_ms.min(stats.due_after(&compact));
                let whole = parts.iter().all(|part| !part.run.damaged.load(Relaxed));
                if whole && attempts.is_due(partition, &stats, &compact) {
                    survey.compactable.push((partition, compact));
                }
            });
            survey.partitions.push(partition);
        }
        survey
    }

    /// What to do next; the reason whose turn it is comes first.
    fn choose(&self, mut survey: Survey, turn: usize) -> Option<(Reason, Vec<Task>)> {
        survey.runs.retain(|_, alive| !alive.run.damaged.load(Relaxed));
        for reason in (0..REASONS.len()).map(|n| REASONS[(turn + n) % REASONS.len()]) {
            let tasks = match reason {
                Reason::Compaction => self.compactions(&survey),
                Reason::Locality => self.locality(&mut survey),
                Reason::Reclaim => self.reclaim(&survey),
            };
            if !tasks.is_empty() {
                return Some((reason, tasks));
            }
        }
        None
    }

    /// Due compactions, as many as one merge may read.
    fn compactions(&self, survey: &Survey) -> Vec<Task> {
        let mut bytes = 0;
        let mut tasks = Vec::new();
        for (partition, policy) in &survey.compactable {
            let (parts, log_start) = self.directory.all(*partition);
            bytes += parts.iter().map(|part| u64::from(part.bytes)).sum::<u64>();
            if bytes > self.config.merge_bytes_max && !tasks.is_empty() {
                break;
            }
            if !parts.is_empty() {
                tasks.push(Task { partition: *partition, parts, log_start, compact: Some(*policy) });
            }
        }
        tasks
    }

    /// Small parts of runs whose small parts have about the same size.
    fn locality(&self, survey: &mut Survey) -> Vec<Task> {
        let mut classes: BTreeMap<u32, Vec<&Alive>> = BTreeMap::new();
        for alive in survey.runs.values_mut() {
            let class = alive.class();
            class.into_iter().for_each(|class| classes.entry(class).or_default().push(alive));
        }
        for runs in classes.values().filter(|runs| runs.len() >= self.config.merge_runs_min) {
            for seed in runs.iter().take(SEEDS_MAX) {
                let group = self.group_around(seed, runs);
                if group.len() < self.config.merge_runs_min {
                    continue;
                }
                let tasks = self.moves(&survey.partitions, &group, self.config.small_part_bytes);
                let chunks = self.in_chunks(tasks);
                if let Some(tasks) = chunks.into_iter().find(|tasks| self.joins_enough(tasks)) {
                    return tasks;
                }
            }
        }
        Vec::new()
    }

    /// Tasks in order, as many as one merge may read; the rest waits for the next merge.
    fn in_chunks(&self, tasks: Vec<Task>) -> Vec<Vec<Task>> {
        let mut bytes = u64::MAX;
        let mut chunks: Vec<Vec<Task>> = Vec::new();
        for task in tasks {
            bytes = bytes.saturating_add(task.bytes());
            match chunks.last_mut().filter(|_| bytes <= self.config.merge_bytes_max) {
                Some(chunk) => chunk.push(task),
                None => {
                    bytes = task.bytes();
                    chunks.push(vec![task]);
                }
            }
        }
        chunks
    }

    /// Whether moving these small parts makes them larger by half on average, or cheaply halves the number of
    /// runs with such parts. Either is possible only a limited number of times, so merging terminates.
    fn joins_enough(&self, tasks: &[Task]) -> bool {
        let parts: usize = tasks.iter().map(|task| task.parts.len()).sum();
        let bytes: u64 = tasks.iter().map(Task::bytes).sum();
        let runs: HashSet<u64> = tasks.iter().flat_map(|task| &task.parts).map(|part| part.run.id).collect();
        let runs_after = bytes.div_ceil(self.config.run_bytes_max).max(1) as usize;
        parts * 2 >= tasks.len() * 3 || (bytes <= CHEAP_BYTES && runs_after * 2 <= runs.len())
    }

    /// The oldest runs that share partitions with `seed`, as many as one merge takes.
    fn group_around(&self, seed: &Alive, runs: &[&Alive]) -> HashSet<u64> {
        let meeting = runs.iter().filter(|alive| alive.meets(seed));
        meeting.take(self.config.merge_runs_max).map(|alive| alive.run.id).collect()
    }

    /// The live parts of mostly dead runs, the deadest first.
    fn reclaim(&self, survey: &Survey) -> Vec<Task> {
        let mut dead: Vec<&Alive> = survey.runs.values().filter(|alive| alive.is_mostly_dead()).collect();
        dead.sort_by_key(|alive| alive.live_bytes);
        let mut bytes = 0;
        let fits = |alive: &&&Alive| {
            let first = bytes == 0;
            bytes += alive.live_bytes;
            first || bytes <= self.config.merge_bytes_max
        };
        let runs = dead.iter().take(self.config.merge_runs_max).take_while(fits).map(|alive| alive.run.id);
        let runs: HashSet<u64> = runs.collect();
        self.in_chunks(self.moves(&survey.partitions, &runs, u64::MAX)).into_iter().next().unwrap_or_default()
    }

    /// Tasks that move the parts of these runs smaller than `bytes_below`, adjacent ones together.
    fn moves(&self, partitions: &[PartitionId], runs: &HashSet<u64>, bytes_below: u64) -> Vec<Task> {
        let mut tasks = Vec::new();
        if runs.is_empty() {
            return tasks;
        }
        for &partition in partitions {
            self.directory.look(partition, |parts, log_start| {
                let moves = |part: &Part| runs.contains(&part.run.id) && u64::from(part.bytes) < bytes_below;
                for stretch in parts.split(|part| !moves(part)).filter(|stretch| !stretch.is_empty()) {
                    tasks.push(Task { partition, parts: stretch.to_vec(), log_start, compact: None });
                }
            });
        }
        tasks
    }

    /// Drops runs without live parts.
    fn drop_dead_runs(&self) -> Result<usize, MergeError> {
        let dead: Vec<u64> = {
            let runs = self.runs.read();
            runs.values().filter(|run| run.live_parts.load(Relaxed) == 0).map(|run| run.id).collect()
        };
        if dead.is_empty() {
            return Ok(0);
        }
        self.commit(|manifest| manifest.runs.retain(|id, _| !dead.contains(id)), &[])?;
        let mut runs = self.runs.write();
        self.retired.lock().extend(dead.iter().filter_map(|id| runs.remove(id)));
        self.counters.dropped_runs.fetch_add(dead.len() as u64, Relaxed);
        Ok(dead.len())
    }

    /// Removes the files of dropped runs that have no reader any more.
    fn sweep_retired(&self) {
        let unread: Vec<u64> = {
            let mut retired = self.retired.lock();
            let (read, unread) =
                std::mem::take(&mut *retired).into_iter().partition(|run| Arc::strong_count(run) > 1);
            *retired = read;
            let unread: Vec<Arc<Run>> = unread;
            unread.iter().map(|run| run.id).collect()
        };
        unread.into_iter().for_each(|id| self.remove_file(id));
    }
}

impl Survey {
    fn count(&mut self, partition: PartitionId, part: &Part, log_start: i64, small_bytes: u64) {
        let alive = self.runs.entry(part.run.id).or_insert_with(|| Alive {
            run: part.run.clone(),
            live_bytes: 0,
            small: Vec::new(),
            first: partition,
            last: partition,
        });
        alive.live_bytes += part.bytes_above(log_start);
        alive.last = partition;
        if u64::from(part.bytes) < small_bytes {
            alive.small.push(part.bytes);
        }
    }
}
