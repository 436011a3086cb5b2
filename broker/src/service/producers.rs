//! Producer ids: allocated from the metadata group in blocks, assigned one by one.

use millstream_replica::{Command, Reply};
use millstream_state::cluster::{self, ClusterReply};
use tokio::sync::Mutex;

use super::{Change, ProducerIdError};

/// Ids per block; the rest of a block is lost at a restart and never assigned.
pub(super) const BLOCK_IDS: u32 = 1000;

/// The unassigned rest of this node's block.
#[derive(Default)]
pub(super) struct ProducerIds {
    // A tokio lock: the caller that finds the block empty allocates the next one, and the others wait for it.
    rest: Mutex<std::ops::Range<i64>>,
}

impl Change {
    /// A producer id that was never assigned before.
    pub async fn new_producer_id(&self) -> Result<i64, ProducerIdError> {
        let mut rest = self.inner.producer_ids.rest.lock().await;
        if let Some(id) = rest.next() {
            return Ok(id);
        }
        let command = cluster::encode_allocate_producer_ids(BLOCK_IDS);
        let term = self.inner.metadata.led_term().ok_or(ProducerIdError::Unavailable)?;
        let outcome = self.inner.metadata.write(term, Command::encoded(command)).await;
        let Ok((_, Reply::Cluster(Ok(ClusterReply::ProducerIds { first })))) = outcome else {
            return Err(ProducerIdError::Unavailable);
        };
        *rest = first + 1..first + i64::from(BLOCK_IDS);
        Ok(first)
    }
}
