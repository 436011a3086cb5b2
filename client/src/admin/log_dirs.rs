//! Where a broker keeps its partitions, and how much room there is.

use millstream_protocol::{ErrorCode, messages::describe_log_dirs::DescribeLogDirsRequest};

use super::Admin;
use crate::{ClientError, cluster::Lane};

/// A data directory of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogDir {
    /// Its path on the broker's machine.
    pub path: String,
    /// Why nothing can be written into it now, if so.
    pub error: Option<ErrorCode>,
    /// Size of its volume; `None` when the broker does not say.
    pub total_bytes: Option<u64>,
    /// What of it is free.
    pub free_bytes: Option<u64>,
}

impl Admin {
    /// The data directories of a broker, without the partitions that are in them.
    pub async fn log_dirs(&self, broker: i32) -> Result<Vec<LogDir>, ClientError> {
        let connection = self.cluster.broker(broker, Lane::Ask).await?;
        let version = connection.version::<DescribeLogDirsRequest>(i16::MAX)?;
        let request = DescribeLogDirsRequest { topics: Some(Vec::new()) };
        let answer = connection.call_in(version, &request).await?;
        ClientError::check(
            answer.error_code,
            || format!("describe the data directories of broker {broker}"),
            None,
        )?;
        let dirs = answer.results.into_iter().map(|dir| LogDir {
            path: dir.log_dir.to_string(),
            error: Some(ErrorCode(dir.error_code)).filter(|code| *code != ErrorCode::NONE),
            total_bytes: u64::try_from(dir.total_bytes).ok(),
            free_bytes: u64::try_from(dir.usable_bytes).ok(),
        });
        Ok(dirs.collect())
    }
}
