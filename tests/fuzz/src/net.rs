//! The broker's own frame reader, which is private: its files are compiled here too.
#![allow(dead_code)] // The targets use only a part of it.

#[path = "../../../broker/src/net/budget.rs"]
mod budget;
#[path = "../../../broker/src/net/input.rs"]
mod input;
#[path = "../../../broker/src/net/memory_wait.rs"]
mod memory_wait;

use std::{cell::RefCell, io::Write, net::TcpListener};

use bytes::Bytes;
use futures::FutureExt;
use tokio::{io::AsyncReadExt, net::TcpStream, runtime::Runtime};

use budget::{Budget, Charge};
use input::{Budgets, Input};
use memory_wait::MemoryWait;

/// Memory that all frames of one input may take.
const BUDGET_BYTES: usize = 4 << 20;

/// A pair of connected sockets, which all inputs of a process share.
struct Wire {
    runtime: Runtime,
    from_client: TcpStream,
    client: std::net::TcpStream,
}

impl Wire {
    fn new() -> Wire {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let client = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        client.set_nodelay(true).expect("set");
        let (from_client, _) = listener.accept().expect("accepted");
        from_client.set_nonblocking(true).expect("set");
        let from_client = runtime.block_on(async { TcpStream::from_std(from_client).expect("a stream") });
        Wire { runtime, from_client, client }
    }
}

thread_local! {
    static WIRE: RefCell<Option<Wire>> = const { RefCell::new(None) };
}

/// The frames of a stream, and whether it ended with one that is refused.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Frames {
    /// The frames, in order.
    pub frames: Vec<Bytes>,
    /// Whether the next one has an impossible length.
    pub refused: bool,
}

/// The frame reader's results for bytes that arrive in the given pieces.
pub fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>, frame_bytes_max: usize) -> Frames {
    WIRE.with_borrow_mut(|wire| {
        let Wire { runtime, from_client, client } = wire.get_or_insert_with(Wire::new);
        runtime.block_on(read_from(pieces, frame_bytes_max, from_client, client))
    })
}

async fn read_from(
    pieces: impl Iterator<Item = &[u8]>,
    frame_bytes_max: usize,
    stream: &mut TcpStream,
    client: &mut std::net::TcpStream,
) -> Frames {
    let budget = || Budget::new(BUDGET_BYTES);
    let budgets = Budgets { small: budget(), large: budget(), incoming: budget(), exempt: budget() };
    let (mut input, wait) = (Input::new(budgets.clone(), frame_bytes_max), MemoryWait::default());
    let (mut found, mut charges) = (Frames::default(), Vec::<Charge>::new());
    for piece in pieces {
        client.write_all(piece).expect("the stream is open");
        let mut left = piece.len();
        while left > 0 {
            let (mut from, _) = stream.split();
            if found.refused {
                left -= from.read(&mut vec![0; left]).await.expect("the stream is open");
                continue;
            }
            left -= input.fill(&mut from, &wait).await.expect("the stream is open");
            loop {
                match input.next_frame() {
                    Ok(Some((frame, charge))) => {
                        found.frames.push(frame);
                        charges.push(charge);
                    }
                    Ok(None) => break,
                    Err(_) => {
                        found.refused = true;
                        break;
                    }
                }
            }
        }
    }
    drop((input, charges));
    for budget in [budgets.small, budgets.large, budgets.incoming] {
        let all = budget.cover(&mut Charge::default(), BUDGET_BYTES).now_or_never();
        assert!(all.is_some(), "memory of a budget was not given back");
    }
    found
}
