//! Brokers of a test's own: they speak the protocol, and do what the test says.

use bytes::{Bytes, BytesMut};
use millstream_protocol::{
    ApiKey, Message, Reader, RequestHeader, Str, encode_response_frame,
    messages::{
        api_versions::{ApiVersion, ApiVersionsResponse},
        metadata::{
            MetadataResponse, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
        },
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// A request that came: its header, and what follows it.
pub(crate) struct Asked {
    pub(crate) header: RequestHeader,
    pub(crate) body: Reader,
}

impl Asked {
    /// Which of these it is.
    pub(crate) fn key(&self, served: &[(ApiKey, i16)]) -> ApiKey {
        let found = served.iter().map(|(key, _)| *key).find(|key| *key as i16 == self.header.key);
        found.expect("a request that is served")
    }

    pub(crate) fn decode<M: Message>(&mut self) -> M {
        millstream_protocol::decode_body(&mut self.body, self.header.version).expect("a request")
    }

    pub(crate) fn encode<M: Message>(&self, key: ApiKey, response: &M) -> Vec<Bytes> {
        let (version, id) = (self.header.version, self.header.correlation_id);
        encode_response_frame(key, version, id, response).expect("written")
    }
}

/// Takes connections, each in a task of its own that `answer` serves until it says nothing.
pub(crate) async fn listen<F, W>(answer: F) -> u16
where
    F: Fn(Asked) -> W + Clone + Send + 'static,
    W: Future<Output = Option<Vec<Bytes>>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, answer.clone()));
        }
    });
    port
}

async fn serve<F, W>(mut stream: TcpStream, answer: F)
where
    F: Fn(Asked) -> W,
    W: Future<Output = Option<Vec<Bytes>>>,
{
    while let Some(frame) = read_frame(&mut stream).await {
        let mut body = Reader::new(frame);
        let header = RequestHeader::decode(&mut body).expect("a header");
        let Some(pieces) = answer(Asked { header, body }).await else { return };
        for piece in pieces {
            if stream.write_all(&piece).await.is_err() {
                return;
            }
        }
    }
}

async fn read_frame(stream: &mut TcpStream) -> Option<Bytes> {
    let length = stream.read_i32().await.ok()?;
    let mut frame = BytesMut::zeroed(length as usize);
    stream.read_exact(&mut frame).await.ok()?;
    Some(frame.freeze())
}

/// These, each from version 0 to the given one.
pub(crate) fn versions(served: &[(ApiKey, i16)]) -> ApiVersionsResponse {
    let one = |(key, max_version): &(ApiKey, i16)| ApiVersion {
        api_key: *key as i16,
        min_version: 0,
        max_version: *max_version,
    };
    ApiVersionsResponse { api_keys: served.iter().map(one).collect(), ..Default::default() }
}

/// Brokers with these ports and the numbers from 0, and a topic with these leaders and their epoch.
pub(crate) fn metadata(ports: &[u16], topic: &str, leaders: &[i32], leader_epoch: i32) -> MetadataResponse {
    let broker = |(node_id, port): (i32, &u16)| MetadataResponseBroker {
        node_id,
        host: Str::from("127.0.0.1"),
        port: i32::from(*port),
        ..Default::default()
    };
    let partition = |(partition_index, leader): (i32, &i32)| MetadataResponsePartition {
        partition_index,
        leader_id: *leader,
        leader_epoch,
        ..Default::default()
    };
    let topic = MetadataResponseTopic {
        name: Some(Str::from(topic.to_string())),
        partitions: (0..).zip(leaders).map(partition).collect(),
        ..Default::default()
    };
    MetadataResponse {
        brokers: (0..).zip(ports).map(broker).collect(),
        controller_id: 0,
        topics: vec![topic],
        ..Default::default()
    }
}
