//! One connection: many requests on their way at the same time, answers in the order of the requests.
//!
//! Two tasks share a queue of those who wait: one writes requests, and puts who asked into the queue before the first byte
//! leaves; the other reads answers and takes the first one out. When either ends, all who wait hear why, and every later
//! request too.

use std::{
    collections::VecDeque,
    io,
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use millstream_protocol::{
    Address, ErrorCode, FRAME_LENGTH_BYTES, Request, Str, correlation_id, decode_response,
    encode_request_frame, frame_length,
    messages::api_versions::{ApiVersionsRequest, ApiVersionsResponse},
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot},
    task::AbortHandle,
};

use super::Versions;
use crate::{ClientConfig, ClientError};

/// Requests that may wait to be written.
const QUEUED_REQUESTS_MAX: usize = 64;
/// Pieces up to this size are copied together, to leave in one write.
const GATHER_BYTES_MAX: usize = 32 << 10;
/// An answer's buffer grows by at most so much ahead of what has arrived.
const READ_AHEAD_BYTES_MAX: usize = 1 << 20;

struct Outgoing {
    correlation_id: i32,
    frame: Vec<Bytes>,
    /// None for a request that has no answer.
    reply_tx: Option<oneshot::Sender<Bytes>>,
}

/// Why a connection ended.
enum Ended {
    /// In words.
    Said(String),
    /// What answers there speaks HTTP.
    Http,
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Ended {
        match error.get_ref().is_some_and(|inner| inner.is::<AnswersHttp>()) {
            true => Ended::Http,
            false => Ended::Said(error.to_string()),
        }
    }
}

/// What was read is the beginning of an answer in HTTP.
#[derive(Debug, thiserror::Error)]
#[error("this port answers HTTP, not the Kafka protocol")]
struct AnswersHttp;

#[derive(Default)]
struct Waiting {
    queue: VecDeque<(i32, oneshot::Sender<Bytes>)>,
    /// Why the connection ended.
    ended: Option<Ended>,
}

/// A connection to one broker whose versions are known.
pub(crate) struct Connection {
    address: String,
    client_id: String,
    config: Arc<ClientConfig>,
    versions: Versions,
    next_id: AtomicI32,
    outgoing: mpsc::Sender<Outgoing>,
    waiting: Arc<Mutex<Waiting>>,
    tasks: [AbortHandle; 2],
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Connection {
    /// Connects and asks the broker which versions it serves.
    pub(crate) async fn open(address: &str, config: &Arc<ClientConfig>) -> Result<Connection, ClientError> {
        let connecting = async {
            let mut connection = Connection::connect(address, config).await?;
            connection.versions = connection.ask_versions().await?;
            Ok(connection)
        };
        match tokio::time::timeout(config.connect_timeout, connecting).await {
            Ok(result) => result,
            Err(_) => Err(unreachable(address, &io::Error::from(io::ErrorKind::TimedOut))),
        }
    }

    async fn connect(address: &str, config: &Arc<ClientConfig>) -> Result<Connection, ClientError> {
        let to = Address::destination(address)?;
        let stream = TcpStream::connect((to.host(), to.port())).await;
        let stream = stream.map_err(|e| unreachable(address, &e))?;
        stream.set_nodelay(true).map_err(|e| unreachable(address, &e))?;
        let (read, write) = stream.into_split();
        let (outgoing, requests) = mpsc::channel(QUEUED_REQUESTS_MAX);
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let writer = tokio::spawn(write_all(write, requests, waiting.clone()));
        let reader = tokio::spawn(read_all(read, waiting.clone(), config.response_bytes_max));
        Ok(Connection {
            address: address.to_string(),
            client_id: config.client_id.clone(),
            config: config.clone(),
            versions: Versions::default(),
            next_id: AtomicI32::new(0),
            outgoing,
            waiting,
            tasks: [writer.abort_handle(), reader.abort_handle()],
        })
    }

    /// Asks in the newest version first; a broker that does not know that one says so in version 0.
    async fn ask_versions(&self) -> Result<Versions, ClientError> {
        let request = ApiVersionsRequest {
            client_software_name: Str::from("millstream"),
            client_software_version: Str::from(env!("CARGO_PKG_VERSION")),
            ..Default::default()
        };
        let mut response: ApiVersionsResponse = self.call_in(3, &request).await?;
        if ErrorCode(response.error_code) == ErrorCode::UNSUPPORTED_VERSION {
            response = self.call_in(0, &ApiVersionsRequest::default()).await?;
        }
        ClientError::check(response.error_code, || format!("ask {} for its versions", self.address), None)?;
        Ok(Versions::of(&response))
    }

    /// Whether requests still have a chance.
    pub(crate) fn is_open(&self) -> bool {
        self.waiting.lock().ended.is_none()
    }

    /// The version that a request of this type is sent in, at most `max`.
    pub(crate) fn version<R: Request>(&self, max: i16) -> Result<i16, ClientError> {
        self.versions.highest::<R>(max).ok_or_else(|| ClientError::Unsupported {
            address: self.address.clone(),
            api: R::KEY.name(),
            min: R::STABLE_VERSIONS.min,
            max: R::STABLE_VERSIONS.max.min(max),
        })
    }

    /// Sends a request in this version and waits for its answer, as long as answers may take and `longer`.
    pub(crate) async fn call_in<R: Request>(
        &self,
        version: i16,
        request: &R,
    ) -> Result<R::Response, ClientError> {
        self.call_waiting(version, request, Duration::ZERO).await
    }

    /// As [`call_in`](Connection::call_in), for requests that the broker may hold back for `longer`.
    pub(crate) async fn call_waiting<R: Request>(
        &self,
        version: i16,
        request: &R,
        longer: Duration,
    ) -> Result<R::Response, ClientError> {
        let (reply_tx, reply_rx) = oneshot::channel();
        self.send(version, request, Some(reply_tx)).await?;
        self.answer::<R>(version, reply_rx, longer).await
    }

    /// Sends a request; what it returns waits for the answer. Requests leave in the order of the calls.
    pub(crate) async fn begin<R: Request>(
        self: &Arc<Self>,
        version: i16,
        request: &R,
    ) -> Result<Pending<R>, ClientError> {
        let (reply_tx, reply_rx) = oneshot::channel();
        self.send(version, request, Some(reply_tx)).await?;
        Ok(Pending { connection: self.clone(), version, reply_rx, request: PhantomData })
    }

    async fn answer<R: Request>(
        &self,
        version: i16,
        reply_rx: oneshot::Receiver<Bytes>,
        longer: Duration,
    ) -> Result<R::Response, ClientError> {
        let after = self.config.request_timeout + longer;
        match tokio::time::timeout(after, reply_rx).await {
            Ok(Ok(frame)) => {
                let decoded = decode_response::<R>(frame, version);
                Ok(decoded.map_err(|source| ClientError::Malformed { api: R::KEY.name(), source })?.1)
            }
            Ok(Err(_)) => Err(self.disconnected()),
            Err(_) => {
                // Answers come in order: behind one that does not come there is none.
                end(&self.waiting, Ended::Said(format!("{} was not answered", R::KEY.name())));
                Err(ClientError::TimedOut { address: self.address.clone(), api: R::KEY.name(), after })
            }
        }
    }

    /// Sends a request that the broker does not answer.
    pub(crate) async fn send_one_way<R: Request>(
        &self,
        version: i16,
        request: &R,
    ) -> Result<(), ClientError> {
        self.send(version, request, None).await
    }

    async fn send<R: Request>(
        &self,
        version: i16,
        request: &R,
        reply_tx: Option<oneshot::Sender<Bytes>>,
    ) -> Result<(), ClientError> {
        let correlation_id = self.next_id.fetch_add(1, Relaxed);
        let frame = encode_request_frame(version, correlation_id, Some(&self.client_id), request)
            .map_err(|source| ClientError::Unwritable { api: R::KEY.name(), source })?;
        let sent = self.outgoing.send(Outgoing { correlation_id, frame, reply_tx }).await;
        sent.map_err(|_| self.disconnected())
    }

    fn disconnected(&self) -> ClientError {
        let address = self.address.clone();
        match &self.waiting.lock().ended {
            Some(Ended::Http) => ClientError::NotKafka { address },
            Some(Ended::Said(reason)) => ClientError::Disconnected { address, reason: reason.clone() },
            None => ClientError::Disconnected { address, reason: "it was closed".to_string() },
        }
    }
}

/// A request that is on its way.
pub(crate) struct Pending<R> {
    connection: Arc<Connection>,
    version: i16,
    reply_rx: oneshot::Receiver<Bytes>,
    request: PhantomData<fn() -> R>,
}

impl<R: Request> Pending<R> {
    /// Waits for the answer. A call that is dropped changes nothing for the request.
    pub(crate) async fn wait(self) -> Result<R::Response, ClientError> {
        self.connection.answer::<R>(self.version, self.reply_rx, Duration::ZERO).await
    }
}

fn unreachable(address: &str, error: &io::Error) -> ClientError {
    let reason = match error.kind() {
        io::ErrorKind::ConnectionRefused => "nothing listens there".to_string(),
        _ => error.to_string(),
    };
    ClientError::Unreachable { addresses: address.to_string(), reason }
}

/// Ends the connection; callers that wait see their senders dropped. The first reason stays.
fn end(waiting: &Mutex<Waiting>, reason: Ended) {
    let mut waiting = waiting.lock();
    waiting.ended.get_or_insert(reason);
    waiting.queue.clear();
}

async fn write_all(
    mut socket: OwnedWriteHalf,
    mut requests: mpsc::Receiver<Outgoing>,
    waiting: Arc<Mutex<Waiting>>,
) {
    let mut gathered = BytesMut::new();
    while let Some(first) = requests.recv().await {
        let mut next = Some(first);
        while let Some(mut request) = next {
            if !enqueue(&waiting, &mut request) {
                return;
            }
            for piece in request.frame {
                if gathered.len() + piece.len() > GATHER_BYTES_MAX {
                    if let Err(error) = flush(&mut socket, &mut gathered, &piece).await {
                        return end(&waiting, error.into());
                    }
                } else {
                    gathered.extend_from_slice(&piece);
                }
            }
            next = requests.try_recv().ok();
        }
        if let Err(error) = flush(&mut socket, &mut gathered, &[]).await {
            return end(&waiting, error.into());
        }
    }
}

/// Puts who asked into the queue. False when the connection has ended: then the request is dropped, and who asked hears
/// of that.
fn enqueue(waiting: &Mutex<Waiting>, request: &mut Outgoing) -> bool {
    let mut waiting = waiting.lock();
    if waiting.ended.is_some() {
        return false;
    }
    if let Some(reply_tx) = request.reply_tx.take() {
        waiting.queue.push_back((request.correlation_id, reply_tx));
    }
    true
}

async fn flush(socket: &mut OwnedWriteHalf, gathered: &mut BytesMut, behind: &[u8]) -> io::Result<()> {
    if !gathered.is_empty() {
        socket.write_all(gathered).await?;
        gathered.clear();
    }
    socket.write_all(behind).await
}

async fn read_all(mut socket: OwnedReadHalf, waiting: Arc<Mutex<Waiting>>, bytes_max: usize) {
    let mut buffer = BytesMut::new();
    loop {
        match read_frame(&mut socket, &mut buffer, bytes_max).await {
            Ok(frame) => {
                if let Err(reason) = hand_over(&waiting, frame) {
                    return end(&waiting, Ended::Said(reason));
                }
            }
            Err(error) => return end(&waiting, error.into()),
        }
    }
}

fn hand_over(waiting: &Mutex<Waiting>, frame: Bytes) -> Result<(), String> {
    let found = correlation_id(&frame);
    let first = waiting.lock().queue.pop_front();
    match first {
        Some((expected, reply_tx)) if found == Some(expected) => {
            // The caller has gone away: the response is dropped.
            let _ = reply_tx.send(frame);
            Ok(())
        }
        Some((expected, _)) => {
            Err(format!("the broker answered request {found:?} before request {expected}"))
        }
        None => Err("the broker answered what was not asked".to_string()),
    }
}

async fn read_frame(
    socket: &mut OwnedReadHalf,
    buffer: &mut BytesMut,
    bytes_max: usize,
) -> io::Result<Bytes> {
    fill(socket, buffer, FRAME_LENGTH_BYTES).await?;
    let prefix = buffer.split_to(FRAME_LENGTH_BYTES);
    let prefix = prefix.first_chunk().copied().unwrap_or_default();
    if &prefix == b"HTTP" {
        return Err(io::Error::other(AnswersHttp));
    }
    let length = frame_length(prefix, bytes_max).map_err(io::Error::other)?;
    fill(socket, buffer, length).await?;
    Ok(buffer.split_to(length).freeze())
}

/// Reads up to this length; the buffer grows with what has arrived, not with what was announced.
async fn fill(socket: &mut OwnedReadHalf, buffer: &mut BytesMut, bytes: usize) -> io::Result<()> {
    while buffer.len() < bytes {
        buffer.reserve((bytes - buffer.len()).min(READ_AHEAD_BYTES_MAX));
        if socket.read_buf(buffer).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the broker closed it"));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
