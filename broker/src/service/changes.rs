//! Changes of state run to their end, whether or not the caller still waits for the answer.
//!
//! The future of a request is dropped wherever it stands when its connection closes. So each verb that changes state is a
//! method of [`Change`], and only [`Service::change`] makes one: in a task of its own, which is bounded in number and
//! which a shutdown waits for. A caller that goes away loses the answer, never half of the change.
//!
//! A change of several log entries can still fail between two of them: when a group loses its leader, or when the task
//! panics. [`TopicOperation`] notices that, and [`TopicRepair`](super::TopicRepair) does the rest without a restart.

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

/// Changes that may run or wait at the same time; further ones are refused as retriable.
const CHANGES_MAX: u32 = 4096;
/// Operations on topics that run at the same time.
const TOPIC_OPERATIONS_MAX: u32 = 64;

/// What runs, and what is left to repair.
pub(super) struct Changes {
    /// One permit for each change, held until its end.
    running: Arc<Semaphore>,
    /// Shared by operations on topics; a repair takes all permits, so that it sees none half done.
    topic_operations: Arc<Semaphore>,
    /// Held to change a configuration that depends on its present value.
    config: tokio::sync::Mutex<()>,
    /// Wakes the repair of topics.
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
    /// It was not begun; retry later.
    #[error("the broker is stopping or has too many changes in progress; nothing was changed")]
    Busy,
    /// Its task panicked, which is logged.
    #[error("the change failed; it may have taken effect")]
    Failed,
}

/// The permission to change state, for code that runs to its end. It reads as its [`Service`] does.
#[derive(Clone)]
pub struct Change {
    service: Service,
    slot: Arc<Slot>,
}

/// A change's place among those that run.
struct Slot {
    _permit: OwnedSemaphorePermit,
    held: Mutex<Vec<Box<dyn Any + Send>>>,
}

/// Waits for the result of a change. Dropping it does not stop the change.
#[must_use]
pub struct PendingChange<T> {
    state: Option<(JoinHandle<T>, Arc<Slot>)>,
}

/// The exclusive right to change configurations.
pub struct ConfigTurn<'a> {
    _turn: MutexGuard<'a, ()>,
}

impl Service {
    /// Runs `work` in a task of its own, which begins at once.
    pub fn change<T, F>(&self, work: impl FnOnce(Change) -> F) -> PendingChange<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let Ok(permit) = self.inner.changes.running.clone().try_acquire_owned() else {
            return PendingChange { state: None };
        };
        let slot = Arc::new(Slot { _permit: permit, held: Mutex::default() });
        Change { service: self.clone(), slot }.spawn(work)
    }

    /// Waits until every change has ended, for at most `wait`; none begins after that.
    pub async fn finish_changes(&self, wait: Duration) {
        // Those who wait for permits come before those who try, so that no change begins meanwhile.
        let running = &self.inner.changes.running;
        let all = tokio::time::timeout(wait, running.acquire_many(CHANGES_MAX)).await;
        if all.is_err() {
            tracing::warn!("changes that are still running are cut off; the next start repairs them");
        }
        running.close();
    }

    /// Waits until every change that runs now has ended.
    #[cfg(test)]
    pub(crate) async fn changes_ended(&self) {
        drop(self.inner.changes.running.acquire_many(CHANGES_MAX).await);
    }

    /// Resolves when an operation on a topic has ended between two of its log entries.
    pub(super) async fn topic_operation_interrupted(&self) {
        self.inner.changes.interrupted.notified().await;
    }
}

impl Change {
    /// Runs a part of the change in a task of its own and waits at most `wait` for it; `None` if it takes longer or
    /// panics. It runs to its end all the same.
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
        let slot = self.slot.clone();
        let (in_task, work) = (slot.clone(), work(self));
        let task = tokio::spawn(async move {
            let result = work.await;
            drop(in_task);
            result
        });
        PendingChange { state: Some((task, slot)) }
    }

    /// Waits until no other change of a configuration is in progress, and keeps others out.
    pub async fn config_turn(&self) -> ConfigTurn<'_> {
        ConfigTurn { _turn: self.service.inner.changes.config.lock().await }
    }

    /// Begins an operation that writes to the metadata group and then to shards.
    pub(super) async fn begin_topic_operation(&self) -> TopicOperation {
        self.take_topic_operations(1).await
    }

    /// Waits until no operation on a topic is in progress, and keeps others out.
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
    /// Keeps `value` until the change has ended, for instance the memory that its request is charged with.
    pub fn hold(&self, value: impl Any + Send) {
        if let Some((_, slot)) = &self.state {
            slot.held.lock().push(Box::new(value));
        }
    }
}

impl<T> Future for PendingChange<T> {
    type Output = Result<T, ChangeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some((task, _)) = &mut self.state else { return Poll::Ready(Err(ChangeError::Busy)) };
        Pin::new(task).poll(cx).map_err(|error| {
            tracing::error!(%error, "a change failed");
            ChangeError::Failed
        })
    }
}

/// An operation on a topic in progress. Unless it is marked as finished, its end wakes the repair.
pub(super) struct TopicOperation {
    interrupted: Option<Arc<Notify>>,
    _turn: Option<OwnedSemaphorePermit>,
}

impl TopicOperation {
    /// Metadata group and shards agree again, or nothing was written.
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
    async fn no_change_begins_after_the_wait_for_one_that_does_not_end() {
        let service = test_node::start(1).await;
        let stuck = service.change(|_| std::future::pending::<()>());
        service.finish_changes(Duration::from_millis(10)).await;
        assert_eq!(service.change(async |_| ()).await, Err(ChangeError::Busy));
        drop(stuck);
    }
}
