//! Bootstrap of the cluster and registration of this broker, at start.

use millstream_model::{NodeId, limits};
use millstream_state::cluster::{self, Broker};

use super::{Change, TopicError};

impl Change {
    /// Sets the cluster's id and shard count unless the cluster exists, and registers this broker's address.
    pub async fn bootstrap_cluster(&self, cluster_id: String) -> Result<(), TopicError> {
        let node = NodeId(self.inner.serve.node_id);
        let (host, port) = (self.advertised().host().to_string(), self.advertised().port());
        let broker = Broker { host, port, rack: self.inner.serve.rack.clone() };
        let (exists, registered) = self.inner.cluster.inspect(|machine| {
            let known = machine.brokers().find(|(id, _)| *id == node);
            (machine.is_bootstrapped(), known.is_some_and(|(_, known)| *known == broker))
        });
        if !exists {
            self.write_metadata(cluster::encode_bootstrap(&cluster_id, limits::SHARDS_DEFAULT)).await?;
        }
        if !registered {
            self.write_metadata(cluster::encode_register_broker(node, &broker)).await?;
        }
        Ok(())
    }
}
