//! State changes run to completion, whether or not the caller still waits for the answer.
//!
//! The future of a request is dropped at an arbitrary await point when its connection closes. Therefore every operation
//! that changes state is a method of [`Change`], and only [`Service::change`] creates one, in a task of its own. The
//! number of these tasks is bounded, and a shutdown waits for them. A caller that goes away loses the answer, but the
//! change is never cut in half.
//!
//! A change of several log entries can still fail between two of them: when a Raft group loses its leader, or when the
//! task panics. [`TopicOperation`] detects that, and [`TopicRepair`](super::TopicRepair) completes the operation without
//! a restart.

use std::{
    any::Any,
    ops::Deref,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{MutexGuard, Notify, OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
};

use super::Service;

/// Changes that may run or wait at the same time; more are refused with a retriable error.
const CHANGES_MAX: u32 = 4096;
/// Operations on topics that run at the same time.
const TOPIC_OPERATIONS_MAX: u32 = 64;

/// The changes in progress, and the signal to repair interrupted ones.
pub(super) struct Changes {
    /// One permit per change, held until it ends.
    running: Arc<Semaphore>,
    /// One permit per topic operation. A repair takes all of them, so that it never sees an operation in progress.
    topic_operations: Arc<Semaphore>,
    /// Held during a read-modify-write of a configuration.
    config: tokio::sync::Mutex<()>,
    /// Wakes the topic repair.
    interrupted: Arc<Notify>,
}

impl Default for Changes {
    fn default() -> Changes {
        Changes {
            running: Arc::new(Semaphore::new(CHANGES_MAX as usize)),
            topic_operations: Arc::new(Semaphore::new(TOPIC_OPERATIONS_MAX as usize)),
            config: tokio::sync::Mutex::default(),
            interrupted: Arc::default(),
        }
    }
}

/// Why a change has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// It was not started; retry later.
    #[error("the broker is stopping or has too many changes in progress; nothing was changed")]
    Busy,
    /// Its task panicked; the panic is logged.
    #[error("the change failed; it may have taken effect")]
    Failed,
}

/// Permission to change state, for code that runs to completion. Dereferences to its [`Service`].
#[derive(Clone)]
pub struct Change {
    service: Service,
    running: Arc<RunningChange>,
}

/// What a change holds until its last task has ended.
struct RunningChange {
    _permit: OwnedSemaphorePermit,
    held: Mutex<Vec<Box<dyn Any + Send>>>,
}

/// Resolves to the result of a change. Dropping it does not stop the change.
#[must_use]
pub struct PendingChange<T> {
    state: Option<(JoinHandle<T>, Arc<RunningChange>)>,
}

/// Exclusive access to configurations.
pub struct ConfigTurn<'a> {
    _turn: MutexGuard<'a, ()>,
}

impl Service {
    /// Runs `work` in a task of its own, which starts immediately.
    pub fn change<T, F>(&self, work: impl FnOnce(Change) -> F) -> PendingChange<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let Ok(permit) = self.inner.changes.running.clone().try_acquire_owned() else {
            return PendingChange { state: None };
        };
        let running = Arc::new(RunningChange { _permit: permit, held: Mutex::default() });
        Change { service: self.clone(), running }.spawn(work)
    }

    /// Waits until every change has ended, for at most `wait`; no change starts after that.
    pub async fn finish_changes(&self, wait: Duration) {
        // The semaphore serves waiters before `try_acquire`, so that no change starts meanwhile.
        let running = &self.inner.changes.running;
        let all = tokio::time::timeout(wait, running.acquire_many(CHANGES_MAX)).await;
        if all.is_err() {
            tracing::warn!("changes still running at shutdown; aborting them, the next start repairs them");
        }
        running.close();
    }

    /// Waits until every running change has ended.
    #[cfg(test)]
    pub(crate) async fn changes_ended(&self) {
        drop(self.inner.changes.running.acquire_many(CHANGES_MAX).await);
    }

    /// Resolves when a topic operation was interrupted between two of its log entries.
    pub(super) async fn topic_operation_interrupted(&self) {
        self.inner.changes.interrupted.notified().await;
    }
}

impl Change {
    /// Runs a part of the change in a task of its own and waits at most `wait` for it; `None` if it takes longer or
    /// panics. A task that takes longer still runs to completion.
    pub async fn within<T, F>(&self, wait: Duration, work: impl FnOnce(Change) -> F) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        tokio::time::timeout(wait, self.clone().spawn(work)).await.ok()?.ok()
    }

    fn spawn<T, F>(self, work: impl FnOnce(Change) -> F) -> PendingChange<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let running = self.running.clone();
        let (in_task, work) = (running.clone(), work(self));
        let task = tokio::spawn(async move {
            let result = work.await;
            drop(in_task);
            result
        });
        PendingChange { state: Some((task, running)) }
    }

    /// Waits until no other configuration change is in progress, and excludes further ones.
    pub async fn config_turn(&self) -> ConfigTurn<'_> {
        ConfigTurn { _turn: self.service.inner.changes.config.lock().await }
    }

    /// Starts an operation that writes to the metadata group and then to shards.
    pub(super) async fn begin_topic_operation(&self) -> TopicOperation {
        self.take_topic_operations(1).await
    }

    /// Waits until no topic operation is in progress, and excludes further ones.
    pub(super) async fn all_topic_operations(&self) -> TopicOperation {
        self.take_topic_operations(TOPIC_OPERATIONS_MAX).await
    }

    async fn take_topic_operations(&self, count: u32) -> TopicOperation {
        let changes = &self.service.inner.changes;
        // Never an error: the semaphore is not closed.
        let turn = changes.topic_operations.clone().acquire_many_owned(count).await.ok();
        TopicOperation { interrupted: Some(changes.interrupted.clone()), _turn: turn }
    }
}

impl Deref for Change {
    type Target = Service;

    fn deref(&self) -> &Service {
        &self.service
    }
}

impl<T> PendingChange<T> {
    /// Keeps `value` until the change has ended, for instance the memory permit of its request.
    pub fn hold(&self, value: impl Any + Send) {
        if let Some((_, running)) = &self.state {
            running.held.lock().push(Box::new(value));
        }
    }
}

impl<T> Future for PendingChange<T> {
    type Output = Result<T, ChangeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some((task, _)) = &mut self.state else { return Poll::Ready(Err(ChangeError::Busy)) };
        Pin::new(task).poll(cx).map_err(|error| {
            tracing::error!(%error, "change failed");
            ChangeError::Failed
        })
    }
}

/// A topic operation in progress. Dropping it wakes the repair unless it was marked as finished.
pub(super) struct TopicOperation {
    interrupted: Option<Arc<Notify>>,
    _turn: Option<OwnedSemaphorePermit>,
}

impl TopicOperation {
    /// Marks the operation as finished: the metadata group and the shards agree, or nothing was written.
    pub(super) fn finished(mut self) {
        self.interrupted = None;
    }
}

impl Drop for TopicOperation {
    fn drop(&mut self) {
        if let Some(interrupted) = &self.interrupted {
            interrupted.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::test_node;

    #[tokio::test]
    async fn no_change_starts_after_the_wait_for_a_stuck_one() {
        let service = test_node::start(1).await;
        let stuck = service.change(|_| std::future::pending::<()>());
        service.finish_changes(Duration::from_millis(10)).await;
        assert_eq!(service.change(async |_| ()).await, Err(ChangeError::Busy));
        drop(stuck);
    }
}
