//! Connections to the line servers that stay open, talking or silent, and the story of each that breaks.

use std::{
    fmt, future,
    io::{self, ErrorKind},
    net::SocketAddr,
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime,
    sync::{mpsc, oneshot},
    task::JoinSet,
    time,
};

use crate::{Lab, netns::Netns};

/// An answer, or a connection, that takes longer does not come.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// What may come on top of that until everybody has noticed.
const SLACK: Duration = Duration::from_secs(2);

/// Connections of one kind.
#[derive(Clone, Debug)]
pub struct Kind {
    /// A port of the line server, seen from the clients.
    pub target: SocketAddr,
    /// How many.
    pub count: usize,
    /// How long they wait after an answer before they speak again: each has a time of its own, spread evenly over this.
    /// `None`: they speak when they are opened, and when they are told to.
    pub pause: Option<RangeInclusive<Duration>>,
}

/// A connection, as it is at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Its number, from 0, in the order of the kinds.
    pub number: usize,
    /// What it was opened to.
    pub target: SocketAddr,
    /// The client's end, while it is open.
    pub client: Option<SocketAddr>,
    /// Who answers it, while it is open.
    pub backend: Option<String>,
    /// When the last line was sent that has been answered.
    pub answered: Option<Instant>,
}

/// The end of a connection that its client did not want.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Break {
    /// The connection as it was until then.
    pub connection: Connection,
    /// When it was noticed.
    pub at: Instant,
    /// How long the client had waited for an answer; `None` if it had not asked.
    pub waited: Option<Duration>,
    /// What it saw.
    pub how: How,
}

/// How a connection breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// A reset.
    Reset,
    /// The other end has closed it.
    Closed,
    /// No answer, within [`PATIENCE`].
    Silence,
    /// This is no answer to what was asked, by the backend that has answered before.
    Nonsense(String),
    /// Another error, or it could not be opened.
    Error(String),
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Connection { number, target, client, backend, .. } = &self.connection;
        write!(f, "connection {number}, ")?;
        client.iter().try_for_each(|client| write!(f, "{client} to "))?;
        write!(f, "{target}, of {}: {:?}", backend.as_deref().unwrap_or("nobody"), self.how)?;
        self.waited.iter().try_for_each(|waited| write!(f, " after {waited:?}"))
    }
}

impl From<io::Error> for How {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionReset => Self::Reset,
            _ => Self::Error(error.to_string()),
        }
    }
}

/// Connections in the lab's clients; dropped, they are closed.
#[derive(Debug)]
pub struct LongLived {
    shared: Arc<Mutex<Shared>>,
    commands: Vec<mpsc::UnboundedSender<Command>>,
    clients: Vec<Client>,
}

#[derive(Debug, Default)]
struct Shared {
    connections: Vec<Connection>,
    breaks: Vec<Break>,
}

/// The connections of one namespace, in a thread.
#[derive(Debug)]
struct Client {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Speak,
    Reopen,
}

impl LongLived {
    /// Opens connections, spread over the lab's clients, and waits until somebody has answered each.
    ///
    /// # Errors
    /// Some can't be opened: the message says why.
    pub fn open(lab: &Lab, kinds: &[Kind]) -> Result<Self> {
        let shared = Arc::new(Mutex::new(Shared::default()));
        let mut commands = Vec::new();
        let mut workers: Vec<Vec<Worker>> = lab.clients().iter().map(|_| Vec::new()).collect();
        for (kind, place) in kinds.iter().flat_map(|kind| (0..kind.count).map(move |place| (kind, place))) {
            let (number, target) = (commands.len(), kind.target);
            lock(&shared).connections.push(Connection { number, target, client: None, backend: None, answered: None });
            let (sender, receiver) = mpsc::unbounded_channel();
            commands.push(sender);
            let client = number % lab.clients().len();
            workers[client].push(Worker {
                number,
                target,
                pause: kind.pause_of(place),
                commands: receiver,
                shared: Arc::clone(&shared),
            });
        }
        let clients = lab.clients().iter().zip(workers).map(|(netns, workers)| Client::start(netns.clone(), workers));
        let opened = Self { shared, commands, clients: clients.collect() };
        opened.wait(&opened.numbers(|_| true), |connection| connection.answered.is_some())?;
        Ok(opened)
    }

    /// All connections, as they are now.
    #[must_use]
    pub fn connections(&self) -> Vec<Connection> {
        lock(&self.shared).connections.clone()
    }

    /// Numbers of the connections that are as `which` says.
    pub fn numbers(&self, which: impl Fn(&Connection) -> bool) -> Vec<usize> {
        let shared = lock(&self.shared);
        shared.connections.iter().filter(|connection| which(connection)).map(|connection| connection.number).collect()
    }

    /// Every break so far, in their order.
    #[must_use]
    pub fn breaks(&self) -> Vec<Break> {
        lock(&self.shared).breaks.clone()
    }

    /// Has these connections speak now, and waits until each has its answer or has broken. Broken ones stay as they are.
    ///
    /// # Errors
    /// Not each has, though the clients' patience has ended.
    pub fn speak(&self, numbers: &[usize]) -> Result<()> {
        let now = Instant::now();
        self.tell(numbers, Command::Speak);
        self.wait(numbers, |connection| connection.backend.is_none() || connection.answered >= Some(now))
    }

    /// Opens these connections anew, whether they have broken or not, and waits until somebody has answered each.
    ///
    /// # Errors
    /// Some can't be opened: the message says why.
    pub fn reopen(&self, numbers: &[usize]) -> Result<()> {
        let now = Instant::now();
        self.tell(numbers, Command::Reopen);
        self.wait(numbers, |connection| connection.answered >= Some(now))
    }

    fn tell(&self, numbers: &[usize], command: Command) {
        for number in numbers {
            // A worker that panicked does not hear it: who waits for it finds out.
            let _ = self.commands[*number].send(command);
        }
    }

    fn wait(&self, numbers: &[usize], done: impl Fn(&Connection) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE + SLACK;
        let mut waiting = numbers.to_vec();
        loop {
            {
                let shared = lock(&self.shared);
                waiting.retain(|number| !done(&shared.connections[*number]));
            }
            if waiting.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                break;
            }
            thread::sleep(Duration::from_millis(2));
        }
        let mut breaks = self.breaks();
        breaks.retain(|broken| waiting.contains(&broken.connection.number));
        let breaks: Vec<_> = breaks.iter().map(ToString::to_string).collect();
        bail!(
            "{} of {} connections get no answer; breaks of these so far: {}",
            waiting.len(),
            numbers.len(),
            breaks.join("\n")
        );
    }
}

impl Drop for LongLived {
    fn drop(&mut self) {
        for client in &mut self.clients {
            drop(client.stop.take());
            // A panic there has been printed already.
            let _ = client.thread.take().map(JoinHandle::join);
        }
    }
}

impl Kind {
    fn pause_of(&self, place: usize) -> Option<Duration> {
        let pause = self.pause.as_ref()?;
        let share = u32::try_from(place).unwrap_or(u32::MAX);
        let count = u32::try_from(self.count).unwrap_or(u32::MAX);
        Some(*pause.start() + pause.end().saturating_sub(*pause.start()) * share / count)
    }
}

impl Client {
    fn start(netns: Netns, workers: Vec<Worker>) -> Self {
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || netns.enter(|| run(workers, stopped))?);
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

fn run(workers: Vec<Worker>, stopped: oneshot::Receiver<()>) -> Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Dropped at the end, and every connection with it.
        let mut running = JoinSet::new();
        for worker in workers {
            running.spawn(worker.work());
        }
        // The sender is only ever dropped.
        let _ = stopped.await;
    });
    Ok(())
}

/// What keeps one connection.
#[derive(Debug)]
struct Worker {
    number: usize,
    target: SocketAddr,
    pause: Option<Duration>,
    commands: mpsc::UnboundedReceiver<Command>,
    shared: Arc<Mutex<Shared>>,
}

impl Worker {
    /// Opens the connection again and again, each time when it is told to.
    async fn work(mut self) {
        loop {
            let mut asked = None;
            let outcome = self.connection(&mut asked).await;
            if let Err(how) = outcome {
                self.broke(asked, how);
                while !matches!(self.commands.recv().await, Some(Command::Reopen)) {}
            }
            self.update(|connection| (connection.client, connection.backend) = (None, None));
        }
    }

    /// From opening until it is to be opened anew. `asked` is since when an answer is waited for.
    async fn connection(&mut self, asked: &mut Option<Instant>) -> Result<(), How> {
        *asked = Some(Instant::now());
        let stream = patiently(TcpStream::connect(self.target)).await?;
        let client = stream.local_addr()?;
        self.update(|connection| connection.client = Some(client));
        let (reader, mut writer) = stream.into_split();
        let mut lines = BufReader::new(reader).lines();
        for line in 0_u64.. {
            *asked = Some(Instant::now());
            self.ask(&mut lines, &mut writer, line).await?;
            *asked = None;
            if self.pause(&mut lines).await? == Command::Reopen {
                break;
            }
        }
        Ok(())
    }

    /// One line and its answer.
    async fn ask(&self, lines: &mut Answers, writer: &mut OwnedWriteHalf, line: u64) -> Result<(), How> {
        let sent = Instant::now();
        let question = format!("{} {line}", self.number);
        writer.write_all(format!("{question}\n").as_bytes()).await?;
        let answer = patiently(lines.next_line()).await?.ok_or(How::Closed)?;
        let known = lock(&self.shared).connections[self.number].backend.clone();
        match answer.split_once(' ') {
            Some((name, rest)) if rest == question && known.as_deref().is_none_or(|known| known == name) => {
                self.update(|connection| {
                    connection.backend = Some(name.to_owned());
                    connection.answered = Some(sent);
                });
                Ok(())
            }
            _ => Err(How::Nonsense(answer)),
        }
    }

    /// Until it is time to speak, or to open the connection anew.
    async fn pause(&mut self, lines: &mut Answers) -> Result<Command, How> {
        let pause = async {
            match self.pause {
                Some(pause) => time::sleep(pause).await,
                None => future::pending().await,
            }
        };
        tokio::select! {
            line = lines.next_line() => Err(line?.map_or(How::Closed, How::Nonsense)),
            () = pause => Ok(Command::Speak),
            Some(command) = self.commands.recv() => Ok(command),
        }
    }

    fn broke(&self, asked: Option<Instant>, how: How) {
        let at = Instant::now();
        let mut shared = lock(&self.shared);
        let connection = &mut shared.connections[self.number];
        let until_then = connection.clone();
        (connection.client, connection.backend) = (None, None);
        let waited = asked.map(|asked| at - asked);
        shared.breaks.push(Break { connection: until_then, at, waited, how });
    }

    fn update(&self, change: impl FnOnce(&mut Connection)) {
        change(&mut lock(&self.shared).connections[self.number]);
    }
}

/// The lines that come back.
type Answers = Lines<BufReader<OwnedReadHalf>>;

async fn patiently<T>(what: impl Future<Output = io::Result<T>>) -> Result<T, How> {
    Ok(time::timeout(PATIENCE, what).await.map_err(|_| How::Silence)??)
}

/// What a worker that panicked has written is whole.
fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
