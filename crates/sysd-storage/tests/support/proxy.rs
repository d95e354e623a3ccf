//! A TCP proxy that goes wrong in chosen ways.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

/// What becomes of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mode {
    Pass,
    /// Requests get through; the connection is cut when the answer comes.
    CutAnswers,
    /// The same for the answer that comes next; then all pass again, also what is sent anew.
    CutOnce,
    /// The answer that comes next passes; then as [`CutOnce`](Self::CutOnce).
    CutSecond,
    /// Requests get through; a bit of each answer is flipped.
    DamageAnswers,
    /// Whatever is said is swallowed, also on connections made meanwhile. They stay mute for ever.
    Silent,
    /// Whatever is said waits for another mode.
    Hold,
}

/// A proxy in front of one server.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    mode: AtomicU8,
    connections: AtomicUsize,
}

impl Shared {
    /// Goes on to the next mode, if it was this one.
    fn advance(&self, from: Mode, to: Mode) -> bool {
        self.mode.compare_exchange(from as u8, to as u8, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

impl Proxy {
    pub(crate) fn start(server_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared { mode: AtomicU8::new(0), connections: AtomicUsize::new(0) });
        let accepting = Arc::clone(&shared);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(("127.0.0.1", server_port))) else {
                    continue;
                };
                accepting.connections.fetch_add(1, Ordering::SeqCst);
                let is_mute = Arc::new(AtomicBool::new(false));
                let (client_in, server_in) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (shared, mute) = (Arc::clone(&accepting), Arc::clone(&is_mute));
                std::thread::spawn(move || pump(client_in, server, &shared, &mute, false));
                let shared = Arc::clone(&accepting);
                std::thread::spawn(move || pump(server_in, client, &shared, &is_mute, true));
            }
        });
        Self { port, shared }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.shared.mode.store(mode as u8, Ordering::SeqCst);
    }

    /// How many connections were made so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, shared: &Shared, is_mute: &AtomicBool, is_answer: bool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let mut mode = shared.mode.load(Ordering::SeqCst);
        while mode == Mode::Hold as u8 {
            // real-time: the test says when it is over.
            std::thread::sleep(std::time::Duration::from_millis(1));
            mode = shared.mode.load(Ordering::SeqCst);
        }
        if mode == Mode::Silent as u8 {
            is_mute.store(true, Ordering::SeqCst);
        }
        if is_mute.load(Ordering::SeqCst) {
            continue;
        }
        if is_answer && mode == Mode::DamageAnswers as u8 {
            buffer[length - 1] ^= 1;
        }
        let is_last = is_answer && shared.advance(Mode::CutOnce, Mode::Pass);
        if is_answer && !is_last {
            shared.advance(Mode::CutSecond, Mode::CutOnce);
        }
        let is_cut = is_last || is_answer && mode == Mode::CutAnswers as u8;
        if is_cut || to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
