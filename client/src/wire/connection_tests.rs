use super::*;
use millstream_protocol::{
    ApiKey, Reader, RequestHeader, encode_response_frame,
    messages::{
        api_versions::ApiVersion,
        metadata::{MetadataRequest, MetadataResponse},
    },
};
use tokio::{net::TcpListener, task::JoinHandle};

/// What the broker of a test does with a request that is not for its versions.
enum Does {
    /// Answers, with the request's number as the controller.
    Answers,
    /// Answers as if to another request.
    AnswersAnother,
    /// Sends these bytes.
    Says(&'static [u8]),
    /// Closes the connection.
    Hangs,
    /// Says nothing.
    Waits,
}

/// A broker that serves one connection: what it does with the first request, the second, and so on.
async fn broker(does: Vec<Does>) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a client");
        let (mut read, mut write) = stream.into_split();
        let mut buffer = BytesMut::new();
        let mut does = does.into_iter();
        while let Ok(frame) = read_frame(&mut read, &mut buffer, 1 << 20).await {
            let header = RequestHeader::decode(&mut Reader::new(frame)).expect("a header");
            let id = header.correlation_id;
            let frame = if header.key == ApiKey::ApiVersions as i16 {
                versions(id)
            } else {
                match does.next().expect("no more requests than foreseen") {
                    Does::Answers => metadata(header.version, id, id),
                    Does::AnswersAnother => metadata(header.version, id + 1, id),
                    Does::Says(bytes) => vec![Bytes::from_static(bytes)],
                    Does::Hangs => return,
                    Does::Waits => continue,
                }
            };
            for piece in frame {
                write.write_all(&piece).await.expect("the client reads");
            }
        }
    });
    (address, serving)
}

fn versions(correlation_id: i32) -> Vec<Bytes> {
    let api = |api_key, max_version| ApiVersion { api_key, min_version: 0, max_version };
    let api_keys = vec![api(3, 8), api(18, 3)];
    let response = ApiVersionsResponse { api_keys, ..Default::default() };
    encode_response_frame(ApiKey::ApiVersions, 3, correlation_id, &response).expect("written")
}

fn metadata(version: i16, correlation_id: i32, controller_id: i32) -> Vec<Bytes> {
    let response = MetadataResponse { controller_id, ..Default::default() };
    encode_response_frame(ApiKey::Metadata, version, correlation_id, &response).expect("written")
}

async fn connect(address: &str) -> Arc<Connection> {
    let config = ClientConfig { response_bytes_max: 1000, ..ClientConfig::default() };
    Arc::new(Connection::open(address, &Arc::new(config)).await.expect("connected"))
}

fn ask() -> MetadataRequest {
    MetadataRequest { topics: Some(Vec::new()), ..Default::default() }
}

#[tokio::test]
async fn many_requests_are_on_their_way_and_each_gets_its_own_answer() {
    let (address, _serving) = broker((0..50).map(|_| Does::Answers).collect()).await;
    let connection = connect(&address).await;
    let version = connection.version::<MetadataRequest>(12).expect("a common version");
    assert_eq!(version, 8);
    let mut pending = Vec::new();
    for _ in 0..50 {
        pending.push(connection.begin(version, &ask()).await.expect("sent"));
    }
    let mut controllers = Vec::new();
    for one in pending {
        controllers.push(one.wait().await.expect("answered").controller_id);
    }
    // The first number went to the question for versions.
    assert!(controllers.into_iter().eq(1..51));
}

#[tokio::test]
async fn everyone_who_waits_hears_that_the_connection_has_ended() {
    let (address, _serving) = broker(vec![Does::Waits, Does::Hangs]).await;
    let connection = connect(&address).await;
    let first = connection.begin(8, &ask()).await.expect("sent");
    let second = connection.begin(8, &ask()).await.expect("sent");
    for one in [first, second] {
        assert!(matches!(one.wait().await, Err(ClientError::Disconnected { .. })));
    }
    assert!(!connection.is_open());
    assert!(
        matches!(connection.call_in(8, &ask()).await, Err(ClientError::Disconnected { .. })),
        "and who comes later"
    );
}

#[tokio::test]
async fn an_answer_to_another_request_ends_the_connection() {
    let (address, _serving) = broker(vec![Does::AnswersAnother]).await;
    let connection = connect(&address).await;
    let message = connection.call_in(8, &ask()).await.expect_err("not its answer").to_string();
    assert!(message.contains("answered request Some(2) before request 1"), "{message}");
}

#[tokio::test]
async fn a_frame_that_is_too_long_ends_the_connection() {
    let (address, _serving) = broker(vec![Does::Says(&[0x7f, 0xff, 0xff, 0xff, 0])]).await;
    let connection = connect(&address).await;
    let message = connection.call_in(8, &ask()).await.expect_err("too long").to_string();
    assert!(message.contains("too large"), "{message}");
}

#[tokio::test]
async fn a_request_that_is_not_answered_in_time_takes_the_connection_with_it() {
    let (address, _serving) = broker(vec![Does::Waits]).await;
    let config = ClientConfig { request_timeout: Duration::from_millis(50), ..ClientConfig::default() };
    let connection = Connection::open(&address, &Arc::new(config)).await.expect("connected");
    assert!(matches!(
        connection.call_in(8, &ask()).await,
        Err(ClientError::TimedOut { api: "Metadata", .. })
    ));
    assert!(!connection.is_open(), "behind it no response could be assigned to its request");
}
