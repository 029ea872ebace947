//! Who is told: takes messages over HTTP as a receiver would, and answers as it is told to.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What a receiver does with one request.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Answers with this status, these further header lines, and this text.
    Status(u16, &'static str, String),
    /// Takes it, and closes the connection without a word.
    Cut,
    /// Takes it, and says nothing for a minute.
    Hang,
}

impl Answer {
    /// One without further headers.
    pub fn of(status: u16, text: impl Into<String>) -> Self {
        Self::Status(status, "", text.into())
    }
}

/// One request.
#[derive(Debug, Clone)]
pub struct Request {
    /// `POST /path`.
    pub line: String,
    /// By name, in small letters.
    pub headers: BTreeMap<String, String>,
    /// As it was sent.
    pub body: String,
    /// When it came.
    pub at: Instant,
}

impl Request {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

type Usual = Arc<dyn Fn(&Request) -> Answer + Send + Sync>;

/// A receiver on loopback.
#[derive(Clone)]
pub struct Hook {
    /// Where it is.
    pub address: SocketAddr,
    taken: Arc<Mutex<Vec<Request>>>,
    answers: Arc<Mutex<Vec<Answer>>>,
    usual: Usual,
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hook({})", self.address)
    }
}

impl Hook {
    /// Starts one that takes everything.
    #[must_use]
    pub fn start() -> Self {
        Self::answering(|_| Answer::of(200, ""))
    }

    /// Starts one that answers like this, when it is told nothing else.
    pub fn answering(usual: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
        let hook = Self {
            address: listener.local_addr().expect("is bound"),
            taken: Arc::default(),
            answers: Arc::default(),
            usual: Arc::new(usual),
        };
        let inner = hook.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let inner = inner.clone();
                // One that breaks is of a collector that was killed.
                std::thread::spawn(move || inner.serve(stream).ok());
            }
        });
        hook
    }

    /// The next requests are answered so, and those after them as usual.
    pub fn answer(&self, answers: &[Answer]) {
        let mut all = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        all.splice(0..0, answers.iter().rev().cloned());
    }

    /// What came so far.
    #[must_use]
    pub fn taken(&self) -> Vec<Request> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.clone()
    }

    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut headers = BTreeMap::new();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim_end().split_once(": ") else {
                break;
            };
            headers.insert(name.to_lowercase(), value.to_owned());
        }
        let length = headers
            .get("content-length")
            .and_then(|text| text.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body)?;
        let line = line.rsplit_once(' ').map_or("", |(line, _)| line);
        let request = Request {
            line: line.to_owned(),
            headers,
            body: String::from_utf8(body).expect("text"),
            at: Instant::now(),
        };
        let next = self
            .answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let next = next.unwrap_or_else(|| (self.usual)(&request));
        self.taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(request);
        match next {
            Answer::Cut => Ok(()),
            Answer::Hang => {
                std::thread::sleep(Duration::from_secs(60));
                Ok(())
            }
            Answer::Status(status, more, text) => {
                let length = text.len();
                let mut stream = stream;
                write!(
                    stream,
                    "HTTP/1.1 {status} Said\r\ncontent-length: {length}\r\nconnection: close\r\n{more}\r\n{text}"
                )
            }
        }
    }
}
