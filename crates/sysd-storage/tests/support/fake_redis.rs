//! A Redis that answers what a test wants, when it wants.

use std::io::{BufRead, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// The bytes that answer a command; none: the connection is closed.
type Answer = dyn FnMut(&[String]) -> Option<String> + Send;

/// The commands that came, in their order, those of handshakes left out.
pub(crate) type Commands = Arc<Mutex<Vec<Vec<String>>>>;

/// Answers until the test's process ends; its port, and what was asked.
pub(crate) fn start(answer: impl FnMut(&[String]) -> Option<String> + Send + 'static) -> (u16, Commands) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer: Arc<Mutex<Box<Answer>>> = Arc::new(Mutex::new(Box::new(answer)));
    let commands = Commands::default();
    let noted = Arc::clone(&commands);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (answer, noted) = (Arc::clone(&answer), Arc::clone(&noted));
            std::thread::spawn(move || serve(stream, &answer, &noted));
        }
    });
    (port, commands)
}

fn serve(mut stream: TcpStream, answer: &Mutex<Box<Answer>>, commands: &Mutex<Vec<Vec<String>>>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let command = read_command(&mut reader)?;
        let told = match command.first()?.as_str() {
            "HELLO" => "%1\r\n$5\r\nproto\r\n:3\r\n".to_owned(),
            "CLIENT" => "+OK\r\n".to_owned(),
            "PING" => "+PONG\r\n".to_owned(),
            // As hosted servers do.
            "CONFIG" | "COMMAND" => "-ERR unknown command\r\n".to_owned(),
            _ => {
                commands.lock().ok()?.push(command.clone());
                (answer.lock().ok()?)(&command)?
            }
        };
        stream.write_all(told.as_bytes()).ok()?;
    }
}

/// An array of bulk strings; what is no text is shown as such.
fn read_command(reader: &mut impl BufRead) -> Option<Vec<String>> {
    let number = |reader: &mut dyn BufRead| {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        line.trim_end().get(1..)?.parse::<usize>().ok()
    };
    let count = number(reader)?;
    let mut parts = Vec::with_capacity(count);
    for _ in 0..count {
        let mut bytes = vec![0; number(reader)? + 2];
        reader.read_exact(&mut bytes).ok()?;
        bytes.truncate(bytes.len() - 2);
        parts.push(String::from_utf8_lossy(&bytes).into_owned());
    }
    Some(parts)
}
