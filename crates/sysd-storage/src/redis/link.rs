//! The connection to one node.
//!
//! The client's own manager keeps a connection on which nothing comes back any more until the kernel gives it up, a quarter
//! of an hour later. Here a connection that breaks, or on which one answer is overdue, is given up at once: the next
//! call makes a new one, whose handshake shows that somebody is there. Calls that are still in flight on the old one keep it
//! until their own deadlines. Nothing is ever sent twice.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use parking_lot::RwLock;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, Pipeline, PushInfo, PushKind, RedisError, Value};

use super::slots::Address;

/// Room for that many calls before callers wait their turn. Where the queue has room for all callers they go out in one write
/// and are answered in one, and client and server take turns; half of 64 callers keep both at work, and 1,024 lose nothing
/// by it.
const QUEUE_CALLS: usize = 32;
/// Bytes gathered before they are written.
const WRITE_BYTES: usize = 32 << 10;

/// Why there is no answer.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) error: RedisError,
    /// Whether the call may have reached the server.
    pub(super) was_sent: bool,
}

impl Failure {
    pub(super) fn unsent(error: impl Into<RedisError>) -> Self {
        Self { error: error.into(), was_sent: false }
    }
}

/// What a connection tells by itself.
pub(super) enum Told {
    /// The server said something that nobody asked for, or confirmed a subscription.
    Push(PushInfo),
    /// It broke, or was given up.
    Broken,
}

/// Who is told, with the number of the connection. `false`: the connection is out of step and must not be used again.
pub(super) type Hook = Arc<dyn Fn(u64, Told) -> bool + Send + Sync>;

/// Numbers connections.
static CONNECTIONS: AtomicU64 = AtomicU64::new(1);

/// The connection to one node, made when it is needed and made anew when it broke.
pub(super) struct Link {
    pub(super) address: Address,
    client: Client,
    response_timeout: Duration,
    connection_timeout: Duration,
    hook: Option<Hook>,
    state: RwLock<State>,
}

enum State {
    Down,
    Connecting { attempt: Attempt, since: Instant },
    Up(Live),
}

/// Callers share an attempt, which a task of its own drives.
type Attempt = Shared<BoxFuture<'static, Result<Live, RedisError>>>;

#[derive(Clone)]
struct Live {
    number: u64,
    connection: MultiplexedConnection,
    /// Set as soon as the other end has hung up, so that no call is wasted on it.
    is_broken: Arc<AtomicBool>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Link").field(&self.address).finish()
    }
}

impl Link {
    pub(super) fn new(
        address: Address,
        client: Client,
        response_timeout: Duration,
        connection_timeout: Duration,
        hook: Option<Hook>,
    ) -> Self {
        Self { address, client, response_timeout, connection_timeout, hook, state: RwLock::new(State::Down) }
    }

    /// Sends a command, once. What the server refuses is a value: [`Value::ServerError`].
    pub(super) async fn send(&self, command: &Cmd) -> Result<Value, Failure> {
        let mut live = self.live().await?;
        let answer = live.connection.send_packed_command(command).await;
        answer.map_err(|error| self.give_up(&live, error))
    }

    /// Sends commands together, once; one answer each.
    pub(super) async fn send_many(&self, commands: &Pipeline) -> Result<Vec<Value>, Failure> {
        let mut live = self.live().await?;
        let answers = live.connection.send_packed_commands(commands, 0, commands.len()).await;
        match answers {
            Ok(answers) if answers.len() == commands.len() => Ok(answers),
            Ok(_) => Err(self.give_up(&live, (redis::ErrorKind::Parse, "answers are missing").into())),
            Err(error) => Err(self.give_up(&live, error)),
        }
    }

    /// Sends a command to a node that is just taking over its slot.
    pub(super) async fn send_asking(&self, command: &Cmd) -> Result<Value, Failure> {
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.cmd("ASKING").add_command(command.clone());
        let mut answers = self.send_many(&pipeline).await?;
        Ok(answers.pop().unwrap_or(Value::Nil))
    }

    /// Connects, if there is no connection.
    pub(super) async fn ready(&self) -> Result<(), Failure> {
        self.live().await.map(|_| ())
    }

    /// Whether a call can go out at once.
    pub(super) fn is_up(&self) -> bool {
        self.up().is_some()
    }

    fn up(&self) -> Option<Live> {
        match &*self.state.read() {
            State::Up(live) if !live.is_broken.load(Ordering::Relaxed) => Some(live.clone()),
            _ => None,
        }
    }

    async fn live(&self) -> Result<Live, Failure> {
        if let Some(live) = self.up() {
            return Ok(live);
        }
        let attempt = self.attempt();
        let result = attempt.clone().await;
        let mut state = self.state.write();
        if matches!(&*state, State::Connecting { attempt: current, .. } if current.ptr_eq(&attempt)) {
            *state = match &result {
                Ok(live) => State::Up(live.clone()),
                Err(_) => State::Down,
            };
        }
        result.map_err(Failure::unsent)
    }

    /// The attempt under way, or a new one.
    ///
    /// A task drives it, as one drives the connection that comes of it: were it the callers, one that is dropped could take a
    /// wake-up with it. What wakes an attempt while one caller polls it wakes the others in vain, for they find it being
    /// polled; only that caller would poll it again. The task ends with the attempt, after `connection_timeout` at most.
    fn attempt(&self) -> Attempt {
        let mut state = self.state.write();
        match &*state {
            // One whose task is gone with its runtime would only time out; one that failed while nobody waited is old.
            State::Connecting { attempt, since }
                if attempt.peek().map_or(since.elapsed() < self.connection_timeout, |result| {
                    result.as_ref().is_ok_and(|live| !live.is_broken.load(Ordering::Relaxed))
                }) =>
            {
                attempt.clone()
            }
            // Another caller was quicker.
            State::Up(live) if !live.is_broken.load(Ordering::Relaxed) => {
                let live = live.clone();
                async move { Ok(live) }.boxed().shared()
            }
            _ => {
                let attempt = self.connect().boxed().shared();
                drop(tokio::spawn(attempt.clone()));
                *state = State::Connecting { attempt: attempt.clone(), since: Instant::now() };
                attempt
            }
        }
    }

    fn connect(&self) -> impl Future<Output = Result<Live, RedisError>> + Send + 'static {
        let client = self.client.clone();
        let number = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        let is_broken = Arc::new(AtomicBool::new(false));
        let mut config = AsyncConnectionConfig::new()
            .set_response_timeout(Some(self.response_timeout))
            .set_connection_timeout(Some(self.connection_timeout))
            .set_pipeline_buffer_size(QUEUE_CALLS)
            .set_write_backpressure_boundary(WRITE_BYTES);
        if client.get_connection_info().redis_settings().protocol() == redis::ProtocolVersion::RESP3 {
            let (is_broken, hook) = (Arc::clone(&is_broken), self.hook.clone());
            config = config.set_push_sender(move |push: PushInfo| {
                let is_over = push.kind == PushKind::Disconnection;
                let is_confirmation = matches!(push.kind, PushKind::Subscribe | PushKind::SSubscribe);
                let told = if is_over { Told::Broken } else { Told::Push(push) };
                let Some(hook) = &hook else {
                    is_broken.fetch_or(is_over, Ordering::SeqCst);
                    return Ok(());
                };
                if !hook(number, told) || is_over {
                    is_broken.store(true, Ordering::SeqCst);
                } else if is_confirmation && is_broken.load(Ordering::SeqCst) {
                    // It was given up before it confirmed, and its end, with the last call on it, will not be told.
                    hook(number, Told::Broken);
                }
                Ok::<_, redis::aio::SendError>(())
            });
        }
        async move {
            let connection = client.get_multiplexed_async_connection_with_config(&config).await?;
            Ok(Live { number, connection, is_broken })
        }
    }

    /// Of a failed call: no other call goes out on this connection.
    fn give_up(&self, live: &Live, error: RedisError) -> Failure {
        live.is_broken.store(true, Ordering::SeqCst);
        {
            let mut state = self.state.write();
            if matches!(&*state, State::Up(current) if Arc::ptr_eq(&current.is_broken, &live.is_broken)) {
                *state = State::Down;
            }
        }
        if let Some(hook) = &self.hook {
            hook(live.number, Told::Broken);
        }
        Failure { error, was_sent: true }
    }
}
