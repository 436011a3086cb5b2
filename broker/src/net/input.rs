//! Bytes from a client, cut into frames.

use std::{io, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::FutureExt;
use tokio::{
    io::{AsyncReadExt, Interest},
    net::tcp::ReadHalf,
    task::coop::consume_budget,
};

use super::{
    budget::{Budget, Charge},
    memory_wait::MemoryWait,
};

/// Bytes that are read at once while nothing is known of the client's frames.
const READ_BYTES_MIN: usize = 16 << 10;
/// Most bytes that are read at once.
const READ_BYTES_MAX: usize = 1 << 20;
/// The beginning of a frame whose rest is waited for is kept in its own size up to this many bytes, and counts as nothing:
/// so much is every connection allowed.
const BEGINNING_BYTES_MAX: usize = 512;
/// Longest frame that takes its memory from the budget for small requests, which large ones cannot use up.
const SMALL_FRAME_BYTES_MAX: usize = 64 << 10;
/// How often a request that waits for memory looks whether its client has closed.
const CLOSED_CHECK_EVERY: Duration = Duration::from_millis(250);
/// Small requests have this part of the memory for requests to themselves, beside it.
const SMALL_REQUESTS_SHARE: usize = 4;
/// Large requests that are not whole may take this part of the memory for requests.
const INCOMING_REQUESTS_SHARE: usize = 16;
/// Length of the length in front of a frame.
const LENGTH_BYTES: usize = 4;

/// A frame that is not accepted; the connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame declares a negative length ({0})")]
    Negative(i32),
    #[error("a frame declares {bytes} bytes; at most {bytes_max} are accepted")]
    TooLong { bytes: usize, bytes_max: usize },
    #[error("this is an HTTP request, and the port speaks the Kafka protocol")]
    Http,
    #[error(
        "this is the beginning of TLS, which the port does not speak: the client's security.protocol is PLAINTEXT"
    )]
    Tls,
}

/// What speaks another protocol, by the first bytes of its connection. As a length they would be more than ever is
/// accepted.
fn other_protocol(first: [u8; LENGTH_BYTES]) -> Option<FrameError> {
    match &first {
        b"GET " | b"POST" | b"PUT " | b"HEAD" | b"DELE" | b"PATC" | b"OPTI" | b"CONN" | b"TRAC" | b"PRI " => {
            Some(FrameError::Http)
        }
        [0x16, 0x03, ..] => Some(FrameError::Tls),
        _ => None,
    }
}

/// Where requests take their memory from.
#[derive(Clone)]
pub(super) struct Budgets {
    /// For requests that are small, or of which it is not known yet.
    pub(super) small: Budget,
    /// For the others.
    pub(super) large: Budget,
    /// For the others as long as they are not whole, beside `large`. It is much less: what is not read stays in the
    /// sockets, and clients that stop in the middle of a request hold little.
    pub(super) incoming: Budget,
    /// One unit. The large request that has it needs nothing of `incoming`, so that one of any length can be received while
    /// others hold all of that.
    pub(super) exempt: Budget,
}

/// What a large request that is not whole holds beside its share of [`Budgets::large`].
#[derive(Default)]
struct Incoming {
    memory: Charge,
    exemption: Charge,
}

impl Incoming {
    /// Makes it suffice for `bytes`: with memory, or with the exemption if that is free first.
    async fn cover(&mut self, budgets: &Budgets, bytes: usize) {
        if self.exemption.bytes() == 0 {
            tokio::select! {
                biased;
                () = budgets.incoming.cover(&mut self.memory, bytes) => {}
                () = budgets.exempt.cover(&mut self.exemption, 1) => {}
            }
            if self.exemption.bytes() > 0 {
                // Others need it while this request, of any length, arrives.
                self.memory = Charge::default();
            }
        }
    }
}

impl Budgets {
    /// Budgets of which large requests take at most `requests_bytes_max`.
    pub(super) fn new(requests_bytes_max: usize) -> Budgets {
        Budgets {
            small: Budget::new(requests_bytes_max / SMALL_REQUESTS_SHARE),
            large: Budget::new(requests_bytes_max),
            incoming: Budget::new(requests_bytes_max / INCOMING_REQUESTS_SHARE),
            exempt: Budget::new(1),
        }
    }

    /// The budget that requests of this size wait for until they are whole.
    fn of_arrival(&self, size: RequestSize) -> &Budget {
        match size {
            RequestSize::Small => &self.small,
            RequestSize::Large => &self.incoming,
        }
    }
}

/// Which budget a request takes its memory from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestSize {
    /// It is small, or of unknown length yet.
    Small,
    Large,
}

/// The part of a frame that has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Partial {
    /// Its number among the frames of the connection.
    pub(super) nth: u64,
    /// Bytes of it that are here and take memory from a budget.
    pub(super) bytes: usize,
    pub(super) size: RequestSize,
}

/// What was received and not yet handed on.
pub(super) struct Input {
    buffer: BytesMut,
    charge: Charge,
    incoming: Incoming,
    /// Of which requests the charge is.
    size: RequestSize,
    budgets: Budgets,
    frames: u64,
    frame_bytes_max: usize,
    /// About the size of the client's recent frames: so much is read at once.
    usual_bytes: usize,
}

impl Input {
    pub(super) fn new(budgets: Budgets, frame_bytes_max: usize) -> Input {
        Input {
            buffer: BytesMut::new(),
            charge: Charge::default(),
            incoming: Incoming::default(),
            size: RequestSize::Small,
            budgets,
            frames: 0,
            frame_bytes_max,
            usual_bytes: READ_BYTES_MIN,
        }
    }

    /// The frame of which a part has arrived.
    pub(super) fn partial(&self) -> Option<Partial> {
        let bytes = if self.buffer.len() > BEGINNING_BYTES_MAX { self.buffer.len() } else { 0 };
        (!self.buffer.is_empty()).then_some(Partial { nth: self.frames, bytes, size: self.size })
    }

    /// Length of the frame whose beginning is in the buffer.
    fn frame_bytes(&self) -> Result<Option<usize>, FrameError> {
        let Some(length) = self.buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        if self.frames == 0 {
            other_protocol(*length).map_or(Ok(()), Err)?;
        }
        let length = i32::from_be_bytes(*length);
        let bytes = usize::try_from(length).map_err(|_| FrameError::Negative(length))?;
        if bytes > self.frame_bytes_max {
            return Err(FrameError::TooLong { bytes, bytes_max: self.frame_bytes_max });
        }
        Ok(Some(bytes))
    }

    /// The next whole frame, without its length, and the memory that it holds.
    pub(super) fn next_frame(&mut self) -> Result<Option<(Bytes, Charge)>, FrameError> {
        let Some(bytes) = self.frame_bytes()? else { return Ok(None) };
        if self.buffer.len() < LENGTH_BYTES + bytes {
            return Ok(None);
        }
        self.buffer.advance(LENGTH_BYTES);
        let frame = self.buffer.split_to(bytes).freeze();
        // Follows larger frames at once and smaller ones slowly.
        self.usual_bytes = (bytes + LENGTH_BYTES).max(self.usual_bytes - self.usual_bytes / 8);
        self.frames += 1;
        self.incoming = Incoming::default();
        self.budgets.of_arrival(self.size).count_completed();
        Ok(Some((frame, self.charge.split(bytes))))
    }

    /// Lets an idle connection hold no memory.
    pub(super) fn rest(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
            self.charge.shrink_to(0);
            self.incoming = Incoming::default();
        }
    }

    /// Room that the buffer has without another allocation.
    fn spare(&self) -> usize {
        self.buffer.capacity() - self.buffer.len()
    }

    /// Lets a connection that waits for a frame, or for the rest of one, hold little while nothing or only a beginning has
    /// arrived. Otherwise what it holds is charged to the budget for frames of its size, so that a slow large frame takes nothing
    /// from small ones.
    async fn settle(&mut self, wait: &MemoryWait) -> Result<(), FrameError> {
        if self.buffer.len() > BEGINNING_BYTES_MAX {
            return self.cover(self.spare(), wait).await;
        }
        // Always a copy: what is left of a buffer of which frames were cut off keeps all of it, small as it looks.
        self.buffer = BytesMut::from(&self.buffer[..]);
        self.charge.shrink_to(0);
        self.incoming = Incoming::default();
        Ok(())
    }

    /// Makes the charge cover the buffer and `room` more bytes, out of the budget for frames of this size.
    async fn cover(&mut self, room: usize, wait: &MemoryWait) -> Result<(), FrameError> {
        let is_large = self.frame_bytes()?.is_some_and(|bytes| bytes > SMALL_FRAME_BYTES_MAX);
        let size = if is_large { RequestSize::Large } else { RequestSize::Small };
        if size != self.size {
            // Small requests are never waited for with memory of large ones, nor the other way round.
            (self.charge, self.incoming, self.size) = (Charge::default(), Incoming::default(), size);
        }
        let bytes = self.buffer.len() + room;
        let Budgets { small, large, .. } = &self.budgets;
        if size == RequestSize::Small {
            wait.during(small.cover(&mut self.charge, bytes)).await;
            return Ok(());
        }
        // In this order: whatever holds memory of the second budget is complete or has its share of the first.
        wait.during(self.incoming.cover(&self.budgets, bytes)).await;
        wait.during(large.cover(&mut self.charge, bytes)).await;
        Ok(())
    }

    /// Gives the buffer room for `room` more bytes, which are covered.
    fn reserve(&mut self, room: usize) {
        if self.size == RequestSize::Small {
            self.buffer.reserve(room);
        } else if self.spare() < room {
            // `reserve` would double the buffer, beyond what is covered.
            let mut larger = BytesMut::with_capacity(self.buffer.len() + room);
            larger.extend_from_slice(&self.buffer);
            self.buffer = larger;
        }
    }

    /// Room that the next read should have at least, and what to reserve if it has not: the rest of the frame that
    /// has begun, though never more than what has already arrived of it, or of earlier ones.
    fn room(&self) -> Result<(usize, usize), FrameError> {
        let earned = self.usual_bytes.clamp(READ_BYTES_MIN, READ_BYTES_MAX).max(self.buffer.len());
        Ok(match self.frame_bytes()? {
            Some(bytes) => {
                let rest = (bytes + LENGTH_BYTES).saturating_sub(self.buffer.len()).clamp(1, earned);
                // A buffer that still has room is used up: each one that follows is a copy.
                (rest.min(READ_BYTES_MIN), rest)
            }
            // Small requests share a buffer until it is nearly used up.
            None if self.usual_bytes <= READ_BYTES_MIN => (READ_BYTES_MIN / 8, earned),
            None => (earned, earned),
        })
    }

    /// Bytes without which the frame that has begun is not whole.
    fn missing_bytes(&self) -> Result<usize, FrameError> {
        let bytes = LENGTH_BYTES + self.frame_bytes()?.unwrap_or(0);
        Ok(bytes.saturating_sub(self.buffer.len()))
    }

    /// Reads once; 0 bytes mean that the client has closed. The time that it waits for memory, and not for the client, is
    /// counted in `wait`. A dropped call lost nothing.
    pub(super) async fn fill(&mut self, from: &mut ReadHalf<'_>, wait: &MemoryWait) -> io::Result<usize> {
        let refused = |error: FrameError| io::Error::new(io::ErrorKind::InvalidData, error);
        let missing = self.missing_bytes().map_err(refused)?;
        loop {
            if from.readable().now_or_never().is_none() {
                tokio::select! {
                    biased;
                    settled = self.settle(wait) => settled.map_err(refused)?,
                    () = closes_early(from, missing) => return Ok(0),
                }
                from.readable().await?;
            }
            let (least, room) = self.room().map_err(refused)?;
            // Spare room too: what was handed on took whole units, and a wait for memory may have been given up.
            let held = if self.spare() < least { room } else { self.spare() };
            tokio::select! {
                biased;
                covered = self.cover(held, wait) => covered.map_err(refused)?,
                () = closes_early(from, missing) => return Ok(0),
            }
            self.reserve(held);
            // Not beyond a large frame: what is behind it would have to be copied out of its memory.
            let most = if self.usual_bytes > READ_BYTES_MIN { room } else { usize::MAX };
            // Unlike `try_read_buf` this knows that a read which leaves room has emptied the socket: no second one that says so.
            let read = from.read_buf(&mut (&mut self.buffer).limit(most)).now_or_never();
            if let Some(result) = read {
                return result;
            }
            // Nothing there after all, or this task has had its turn: then it ends here, as `readable` never ends one.
            consume_budget().await;
        }
    }
}

/// Resolves when the client has closed, and what it sent before is less than the `missing` bytes of a request.
async fn closes_early(from: &ReadHalf<'_>, missing: usize) {
    let mut every = tokio::time::interval(CLOSED_CHECK_EVERY);
    loop {
        every.tick().await;
        // The readiness is only looked at: what clears it would read.
        let ready = from.ready(Interest::READABLE).now_or_never();
        let is_closed = ready.is_some_and(|ready| ready.is_ok_and(|ready| ready.is_read_closed()));
        let unread = rustix::io::ioctl_fionread(from.as_ref()).unwrap_or(0);
        if is_closed && unread < missing as u64 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    const BUDGET_BYTES: usize = 1 << 20;

    /// The whole budget, if nothing is held of it.
    fn all_of(budget: &Budget) -> Option<Charge> {
        let mut charge = Charge::default();
        budget.cover(&mut charge, BUDGET_BYTES).now_or_never().map(|()| charge)
    }

    fn input(bytes: &[u8]) -> Input {
        let budgets = Budgets {
            small: Budget::new(BUDGET_BYTES),
            large: Budget::new(BUDGET_BYTES),
            incoming: Budget::new(2 * BUDGET_BYTES),
            exempt: Budget::new(1),
        };
        let mut input = Input::new(budgets, 1000);
        input.buffer.extend_from_slice(bytes);
        input
    }

    #[test]
    fn frames_come_out_whole_and_in_order() {
        let mut input = input(&[0, 0, 0, 2, 1, 2, 0, 0, 0, 0, 0, 0, 0, 3, 9]);
        let mut next = || input.next_frame().expect("no bad frame").map(|(frame, _)| frame);
        assert_eq!(next(), Some(Bytes::from_static(&[1, 2])));
        assert_eq!(next(), Some(Bytes::new()));
        assert_eq!(next(), None);
        input.buffer.extend_from_slice(&[8, 7]);
        assert_eq!(
            input.next_frame().expect("good").map(|(frame, _)| frame),
            Some(Bytes::from_static(&[9, 8, 7]))
        );
        assert_eq!(input.partial(), None);
        input.buffer.extend_from_slice(&[0, 0]);
        assert_eq!(
            input.partial(),
            Some(Partial { nth: 3, bytes: 0, size: RequestSize::Small }),
            "two bytes count as nothing"
        );
    }

    /// A connection's client and broker.
    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (near.expect("connected"), far.expect("accepted").0)
    }

    #[tokio::test]
    async fn a_socket_that_is_read_empty_is_not_read_again_before_more_comes() {
        let (mut near, mut far) = connected().await;
        let (mut from, _) = far.split();
        let (mut input, wait) = (input(&[]), MemoryWait::default());
        for sent in [&[0u8, 0, 0, 2, 1][..], &[2]] {
            near.write_all(sent).await.expect("sent");
            assert_eq!(input.fill(&mut from, &wait).await.expect("read"), sent.len());
            assert!(from.readable().now_or_never().is_none(), "empty after {} bytes", sent.len());
        }
        let (frame, _) = input.next_frame().expect("good").expect("whole");
        assert_eq!(frame[..], [1, 2]);
    }

    #[test]
    fn a_task_that_has_had_its_turn_lets_others_go_on_and_reads_then() {
        let (done, is_done) = std::sync::mpsc::channel();
        // A thread of its own: what this is about would never come back.
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
            runtime.block_on(async {
                let (mut near, mut far) = connected().await;
                let (mut from, _) = far.split();
                near.write_all(&[0, 0, 0, 1, 7]).await.expect("sent");
                from.readable().await.expect("open");
                while consume_budget().now_or_never().is_some() {}
                let read = input(&[]).fill(&mut from, &MemoryWait::default()).await.expect("read");
                done.send(read).expect("the test waits");
            });
        });
        assert_eq!(is_done.recv_timeout(std::time::Duration::from_secs(10)), Ok(5));
    }

    #[test]
    fn who_waits_for_the_rest_of_a_request_holds_little_more_than_its_beginning() {
        let mut input = input(&[0, 0, 1, 0, 7]);
        let wait = MemoryWait::default();
        input.cover(READ_BYTES_MIN, &wait).now_or_never().expect("there is room").expect("a good length");
        input.buffer.reserve(READ_BYTES_MIN);
        input.settle(&wait).now_or_never().expect("there is room").expect("a good length");
        assert!(input.buffer.capacity() <= BEGINNING_BYTES_MAX, "{} bytes", input.buffer.capacity());
        assert_eq!(input.buffer[..], [0, 0, 1, 0, 7]);
        let small = input.budgets.small.clone();
        let _all = all_of(&small).expect("nothing is held");
        assert!(!small.is_short());
        let mut waits = Box::pin(input.cover(READ_BYTES_MIN, &wait));
        assert!(waits.as_mut().now_or_never().is_none() && wait.is_waiting());
        drop(waits);
        assert!(!wait.is_waiting(), "it was given up, for instance because a reply is there");
    }

    #[test]
    fn the_beginning_of_a_short_request_counts_as_nothing_while_its_rest_is_waited_for() {
        let (mut input, wait) = (input(&[0, 0, 0, 9, 7]), MemoryWait::default());
        input.cover(8, &wait).now_or_never().expect("there is room").expect("a good length");
        input.buffer.reserve(8);
        input.settle(&wait).now_or_never().expect("there is room").expect("a good length");
        assert!(all_of(&input.budgets.small).is_some(), "something is held of the budget");
    }

    #[test]
    fn a_large_request_with_the_exemption_holds_nothing_that_others_need() {
        let wait = MemoryWait::default();
        let large = |budgets| Input { budgets, frame_bytes_max: 1 << 20, ..input(&[0, 8, 0, 0]) };
        let mut first = large(Budgets::new(BUDGET_BYTES));
        let share = BUDGET_BYTES / INCOMING_REQUESTS_SHARE;
        for room in [share - 4096, 2 * share] {
            first.cover(room, &wait).now_or_never().expect("there is room").expect("a good length");
        }
        assert!(first.incoming.exemption.bytes() > 0);
        let mut second = large(first.budgets.clone());
        second.cover(share / 2, &wait).now_or_never().expect("there is room").expect("a good length");
    }

    #[test]
    fn large_requests_leave_the_memory_of_small_ones_alone() {
        let wait = MemoryWait::default();
        let mut large = Input { frame_bytes_max: 1 << 20, ..input(&[0, 2, 0, 0]) };
        large.cover((1 << 20) - 4, &wait).now_or_never().expect("there is room").expect("a good length");
        let budgets = large.budgets.clone();
        let mut small = Input { budgets: budgets.clone(), ..input(&[0, 0, 1, 0]) };
        small
            .cover(READ_BYTES_MIN, &wait)
            .now_or_never()
            .expect("small ones have room")
            .expect("a good length");
        let mut second = Input { budgets, frame_bytes_max: 1 << 20, ..input(&[0, 2, 0, 0]) };
        assert!(second.cover(READ_BYTES_MIN, &wait).now_or_never().is_none(), "large ones have none left");
    }

    #[tokio::test]
    async fn a_large_request_whose_rest_is_waited_for_leaves_the_memory_of_small_ones_alone() {
        let (mut near, mut far) = connected().await;
        let (mut from, _) = far.split();
        let mut sent = vec![0; 9000];
        sent[..4].copy_from_slice(&(1_i32 << 19).to_be_bytes());
        near.write_all(&sent).await.expect("sent");
        let (mut input, wait) = (Input { frame_bytes_max: 1 << 20, ..input(&[]) }, MemoryWait::default());
        while input.buffer.len() < sent.len() {
            input.fill(&mut from, &wait).await.expect("read");
        }
        let Budgets { small, large, .. } = input.budgets.clone();
        let taken = all_of(&large).expect("nothing is held of it yet");
        let mut waits = Box::pin(input.fill(&mut from, &wait));
        assert!(waits.as_mut().now_or_never().is_none() && wait.is_waiting());
        assert!(all_of(&small).is_some(), "while the other memory is waited for");
        drop((waits, taken));
        assert!(input.fill(&mut from, &wait).now_or_never().is_none(), "no more has come");
        assert!(!wait.is_waiting() && all_of(&small).is_some());
        assert!(all_of(&large).is_none(), "what has come is held of it");
    }

    #[tokio::test]
    async fn requests_that_are_not_whole_take_little_of_the_memory_of_those_that_are() {
        const BYTES: usize = 300_000;
        let (mut near, mut far) = connected().await;
        let (mut from, _) = far.split();
        let (mut input, wait) = (Input { frame_bytes_max: BYTES, ..input(&[]) }, MemoryWait::default());
        input.budgets.incoming = Budget::new(BUDGET_BYTES);
        let (incoming, large) = (input.budgets.incoming.clone(), input.budgets.large.clone());
        let mut sent = vec![0; LENGTH_BYTES + BYTES];
        sent[..LENGTH_BYTES].copy_from_slice(&u32::try_from(BYTES).expect("fits").to_be_bytes());
        near.write_all(&sent[..BYTES / 2]).await.expect("sent");
        while input.buffer.len() < BYTES / 2 {
            input.fill(&mut from, &wait).await.expect("read");
        }
        assert!(input.fill(&mut from, &wait).now_or_never().is_none(), "no more has come");
        assert!(all_of(&incoming).is_none(), "what has come is held of it");
        near.write_all(&sent[BYTES / 2..]).await.expect("sent");
        let frame = loop {
            if let Some(frame) = input.next_frame().expect("good") {
                break frame;
            }
            input.fill(&mut from, &wait).await.expect("read");
        };
        let _all = all_of(&incoming).expect("a whole request holds nothing of it");
        assert!(all_of(&large).is_none(), "but of the other");
        drop(frame);
    }

    #[tokio::test]
    async fn a_buffer_is_never_larger_than_what_is_paid_for() {
        const BYTES: usize = 900_000;
        let (mut near, mut far) = connected().await;
        let (mut from, _) = far.split();
        let (mut input, wait) = (Input { frame_bytes_max: BYTES, ..input(&[]) }, MemoryWait::default());
        let mut sent = vec![0; LENGTH_BYTES + BYTES];
        sent[..LENGTH_BYTES].copy_from_slice(&u32::try_from(BYTES).expect("fits").to_be_bytes());
        for piece in sent[..BYTES].chunks(1 + BYTES / 7) {
            let end = input.buffer.len() + piece.len();
            near.write_all(piece).await.expect("sent");
            while input.buffer.len() < end {
                input.fill(&mut from, &wait).await.expect("read");
                let (held, paid) = (input.buffer.capacity(), input.charge.bytes());
                assert!(held <= paid, "{held} bytes, {paid} are paid for");
            }
        }
        assert!(input.buffer.capacity() <= LENGTH_BYTES + BYTES, "no more than the request needs");
        assert!(input.incoming.memory.bytes() >= BYTES, "also of the memory for requests that are not whole");
    }

    #[tokio::test]
    async fn one_large_request_after_the_other_is_received_while_others_hold_all_memory_for_these() {
        const BYTES: usize = 300_000;
        let wait = MemoryWait::default();
        let mut first = Input { frame_bytes_max: BYTES, ..input(&[0, 4, 0, 0]) };
        first.budgets.incoming = Budget::new(BUDGET_BYTES);
        let budgets = first.budgets.clone();
        let _all = all_of(&budgets.incoming).expect("nothing is held");
        first.cover(BYTES, &wait).now_or_never().expect("it is exempt").expect("a good length");
        let mut second = Input { frame_bytes_max: BYTES, budgets: budgets.clone(), ..input(&[0, 4, 0, 0]) };
        let mut waits = Box::pin(second.cover(BYTES, &wait));
        assert!(waits.as_mut().now_or_never().is_none() && budgets.incoming.is_short());
        assert_eq!(budgets.incoming.completed(), 0);
        first.buffer.resize(LENGTH_BYTES + (4 << 16), 0);
        let _whole = first.next_frame().expect("good").expect("whole");
        assert_eq!(budgets.incoming.completed(), 1);
        waits.now_or_never().expect("now it is exempt").expect("a good length");
    }

    #[tokio::test]
    async fn a_client_that_closes_while_its_request_waits_for_memory_is_seen() {
        for (sent_before, sent_later) in [(2000, 0), (2000, 3000)] {
            let (mut near, mut far) = connected().await;
            let (mut from, _) = far.split();
            let mut sent = vec![0; sent_before + sent_later];
            sent[..4].copy_from_slice(&(1_i32 << 19).to_be_bytes());
            near.write_all(&sent[..sent_before]).await.expect("sent");
            let (mut input, wait) = (Input { frame_bytes_max: 1 << 20, ..input(&[]) }, MemoryWait::default());
            while input.buffer.len() < sent_before {
                input.fill(&mut from, &wait).await.expect("read");
            }
            let large = input.budgets.large.clone();
            let _all = all_of(&large).expect("nothing is held of it yet");
            near.write_all(&sent[sent_before..]).await.expect("sent");
            drop(near);
            let read = tokio::time::timeout(Duration::from_secs(10), input.fill(&mut from, &wait)).await;
            assert_eq!(read.expect("it is seen").expect("no error"), 0);
        }
    }

    #[tokio::test]
    async fn a_client_that_has_sent_all_of_a_request_and_closes_its_direction_is_served() {
        const BYTES: usize = 5000;
        let (mut near, mut far) = connected().await;
        let (mut from, _) = far.split();
        let (mut input, wait) = (Input { frame_bytes_max: BYTES, ..input(&[]) }, MemoryWait::default());
        let small = input.budgets.small.clone();
        let all = all_of(&small).expect("nothing is held of it yet");
        let mut sent = vec![0; LENGTH_BYTES + BYTES];
        sent[..LENGTH_BYTES].copy_from_slice(&u32::try_from(BYTES).expect("fits").to_be_bytes());
        near.write_all(&sent).await.expect("sent");
        near.shutdown().await.expect("closed");
        while !from.ready(Interest::READABLE).await.expect("open").is_read_closed() {
            tokio::task::yield_now().await;
        }
        let waits = tokio::time::timeout(CLOSED_CHECK_EVERY / 10, input.fill(&mut from, &wait));
        assert!(waits.await.is_err(), "there is no memory");
        drop(all);
        while input.fill(&mut from, &wait).await.expect("read") > 0 {}
        assert!(input.next_frame().expect("good").is_some_and(|(frame, _)| frame.len() == BYTES));
    }

    #[tokio::test]
    async fn a_large_request_that_comes_in_parts_is_paid_for_whole() {
        const BYTES: usize = 300_000;
        let (mut near, mut far) = connected().await;
        let (mut from, _) = far.split();
        let wait = MemoryWait::default();
        let mut input = Input { frame_bytes_max: 1 << 20, ..input(&[]) };
        let mut sent = vec![0; LENGTH_BYTES + BYTES];
        sent[..LENGTH_BYTES].copy_from_slice(&u32::try_from(BYTES).expect("fits").to_be_bytes());
        // The first has the next one read in one piece; of that a part comes, and the rest after a pause.
        for pause_at in [0, 10_000] {
            near.write_all(&sent[..pause_at]).await.expect("sent");
            while input.buffer.len() < pause_at {
                input.fill(&mut from, &wait).await.expect("read");
            }
            assert!(input.fill(&mut from, &wait).now_or_never().is_none(), "no more has come");
            let whole = async {
                loop {
                    if let Some((_, charge)) = input.next_frame().expect("good") {
                        break charge;
                    }
                    input.fill(&mut from, &wait).await.expect("read");
                }
            };
            let (written, charge) = tokio::join!(near.write_all(&sent[pause_at..]), whole);
            written.expect("sent");
            let mut rest = Charge::default();
            let left = input.budgets.large.cover(&mut rest, BUDGET_BYTES - BYTES + 8192).now_or_never();
            assert!(left.is_none(), "less than {BYTES} bytes are held, pause at {pause_at}");
            drop(charge);
        }
    }

    #[test]
    fn the_beginning_behind_a_frame_does_not_keep_the_memory_of_the_frame() {
        let (mut input, wait) = (input(&[0, 0, 0, 2, 1, 2, 9]), MemoryWait::default());
        let (frame, _) = input.next_frame().expect("good").expect("whole");
        input.settle(&wait).now_or_never().expect("there is room").expect("a good length");
        assert!(frame.is_unique(), "the buffer shares it");
        assert_eq!(input.buffer[..], [9]);
    }

    #[test]
    fn other_protocols_are_told_by_their_first_bytes_and_only_by_these() {
        let first = |bytes: &[u8]| input(bytes).next_frame().map(|_| ());
        assert_eq!(first(b"GET /metrics HTTP/1.1\r\n"), Err(FrameError::Http));
        assert_eq!(first(b"POST /v1"), Err(FrameError::Http));
        assert_eq!(first(&[0x16, 0x03, 0x01, 0x02, 0x00]), Err(FrameError::Tls));
        assert_eq!(first(b"GE"), Ok(()), "more may come");
        let mut later = Input { frame_bytes_max: i32::MAX as usize, ..input(&[0, 0, 0, 0]) };
        assert!(later.next_frame().is_ok_and(|frame| frame.is_some()));
        later.buffer.extend_from_slice(b"GET ");
        assert_eq!(later.next_frame().map(|_| ()), Ok(()), "a length, large as it is");
    }

    #[test]
    fn a_declared_length_is_checked_before_anything_is_reserved() {
        assert_eq!(
            input(&[0xff; 4]).next_frame().map(|_| ()),
            Err(FrameError::Negative(-1)),
            "a negative length"
        );
        let error = input(&[0x7f, 0xff, 0xff, 0xff]).next_frame().map(|_| ());
        assert_eq!(error, Err(FrameError::TooLong { bytes: i32::MAX as usize, bytes_max: 1000 }));
        let large = Input { frame_bytes_max: 100 << 20, ..input(&[0x05, 0, 0, 0]) };
        assert_eq!(
            large.room(),
            Ok((READ_BYTES_MIN, READ_BYTES_MIN)),
            "80 MiB are declared, nothing of them is here"
        );
    }
}
