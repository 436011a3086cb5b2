//! What the reader asks of the task, and when it is done: a group that changes takes no offsets for a moment, between its
//! last join and its syncs. What is asked for then waits for the sync, which the same task takes in.

use std::time::Instant;

use millstream_protocol::ErrorCode;
use tokio::sync::oneshot;

use super::{Coordinator, Ended, sleep_until};
use crate::{
    ClientError, clock,
    consumer::group::{COMMANDS_WAITING_MAX, link::Offsets, membership::MembershipEvent},
};

/// What the reader asks of the task.
pub(in crate::consumer::group) enum Command {
    /// Note these offsets, or what was read.
    Commit { offsets: Option<Offsets>, reply_tx: oneshot::Sender<Result<(), ClientError>> },
    /// Note what was read, and leave.
    Leave(oneshot::Sender<Result<(), ClientError>>),
}

/// A command, and until when it may wait for a group that changes.
pub(super) struct Order {
    command: Command,
    until: Instant,
}

impl Coordinator {
    /// The next order: one that has waited for long enough, or the reader's next. Nothing is taken when the call is
    /// dropped.
    pub(super) async fn order(&mut self) -> Option<Order> {
        let over = self.postponed.front().map(|order| order.until);
        let wait_max = self.link.cluster.config().request_timeout;
        tokio::select! {
            biased;
            () = sleep_until(over) => self.postponed.pop_front(),
            command = self.orders.recv(), if self.postponed.len() < COMMANDS_WAITING_MAX => {
                command.map(|command| Order { command, until: clock::now() + wait_max })
            }
        }
    }

    /// Does what was ordered, or has it wait behind what waits already: a later commit is never overtaken by an earlier one.
    pub(super) async fn serve(&mut self, order: Option<Order>) -> Result<(), Ended> {
        let order = order.ok_or(Ended::Left)?;
        if !self.postponed.is_empty() && clock::now() < order.until {
            self.postponed.push_back(order);
            return Ok(());
        }
        self.attempt(order).await
    }

    /// The same once more for what waits, unless the group still takes no offsets.
    pub(super) async fn serve_postponed(&mut self) -> Result<(), Ended> {
        if self.membership.waits_for_sync() {
            return Ok(());
        }
        for order in std::mem::take(&mut self.postponed) {
            self.serve(Some(order)).await?;
        }
        Ok(())
    }

    async fn attempt(&mut self, Order { command, until }: Order) -> Result<(), Ended> {
        match command {
            Command::Commit { offsets, reply_tx } => {
                let done = self.commit(offsets.clone()).await;
                if self.is_premature(&done, until) {
                    self.postponed.push_back(Order { command: Command::Commit { offsets, reply_tx }, until });
                } else {
                    // A caller that has gone away needs no reply.
                    let _ = reply_tx.send(done);
                }
                Ok(())
            }
            Command::Leave(reply_tx) => {
                let by_itself = self.link.config.commit_every.is_some();
                let committed = if by_itself { self.commit(None).await } else { Ok(()) };
                if self.is_premature(&committed, until) {
                    self.postponed.push_back(Order { command: Command::Leave(reply_tx), until });
                    return Ok(());
                }
                self.leave_group().await;
                let _ = reply_tx.send(committed);
                Err(Ended::Left)
            }
        }
    }

    /// Whether a commit was refused only because the group changes, and this member with it: the next sync is near. A
    /// join that the coordinator has completed, but whose answer is still on its way, makes the generation an old one.
    fn is_premature(&self, done: &Result<(), ClientError>, until: Instant) -> bool {
        let code = done.as_ref().err().and_then(ClientError::code);
        let by_change =
            matches!(code, Some(ErrorCode::REBALANCE_IN_PROGRESS | ErrorCode::ILLEGAL_GENERATION));
        by_change && self.membership.is_changing() && clock::now() < until
    }

    /// Commits these offsets, or what was read.
    async fn commit(&mut self, offsets: Option<Offsets>) -> Result<(), ClientError> {
        let due = offsets.unwrap_or_else(|| self.progress.lock().due(|_| true));
        let (generation, member_id) = self.membership.identity();
        if generation < 0 && !due.is_empty() {
            // Without a generation the coordinator would take them for those of a program that is no member.
            let what = format!("commit the offsets of group '{}'", self.link.config.group);
            let reason = Some("this consumer is not a member of it now".to_string());
            return Err(ClientError::Refused { what, code: ErrorCode::UNKNOWN_MEMBER_ID, reason });
        }
        self.link.commit(generation, member_id, &due).await?;
        self.progress.lock().record_committed(due);
        Ok(())
    }

    /// Commits what was read because it is time to; what the answer tells of the membership is news.
    pub(super) async fn commit_in_time(&mut self) -> Result<Option<MembershipEvent>, Ended> {
        let due = self.progress.lock().due(|_| true);
        let (generation, member_id) = self.membership.identity();
        if due.is_empty() || generation < 0 {
            return Ok(None);
        }
        match self.link.commit_once(generation, member_id, &due).await {
            Ok(()) => {
                self.progress.lock().record_committed(due);
                Ok(None)
            }
            // The next heartbeat tells the same.
            Err(error) if error.code() == Some(ErrorCode::REBALANCE_IN_PROGRESS) => Ok(None),
            Err(error) => match error.code().filter(|code| is_of_membership(*code)) {
                Some(code) => Ok(self.membership.beat(code, clock::now(), clock::random_u64())),
                None => Err(error.into()),
            },
        }
    }

    /// A member with a name keeps its place: it comes back under it.
    pub(super) async fn leave_group(&mut self) {
        let (_, member_id) = self.membership.identity();
        if self.link.config.instance.is_some() || member_id.is_empty() {
            return;
        }
        if let Err(error) = self.link.leave(member_id).await {
            tracing::debug!(%error, "the group will notice by itself that this member is gone");
        }
    }
}

fn is_of_membership(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::ILLEGAL_GENERATION
            | ErrorCode::UNKNOWN_MEMBER_ID
            | ErrorCode::NOT_COORDINATOR
            | ErrorCode::COORDINATOR_NOT_AVAILABLE
            | ErrorCode::COORDINATOR_LOAD_IN_PROGRESS
    )
}
