//! A DynamoDB that answers what a test wants, as the real one does only under load or never.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::Value;

/// Answers a call, by its name (`GetItem`) and its body, with a status and a body.
type Answer = dyn FnMut(&str, &Value) -> (u16, Value) + Send;

/// The calls that came, in their order.
pub(crate) type Calls = Arc<Mutex<Vec<(String, Value)>>>;

/// Answers until the test's process ends; its port, and what was asked.
pub(crate) fn start(answer: impl FnMut(&str, &Value) -> (u16, Value) + Send + 'static) -> (u16, Calls) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer: Arc<Mutex<Box<Answer>>> = Arc::new(Mutex::new(Box::new(answer)));
    let calls = Calls::default();
    let noted = Arc::clone(&calls);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (answer, noted) = (Arc::clone(&answer), Arc::clone(&noted));
            std::thread::spawn(move || serve(stream, &answer, &noted));
        }
    });
    (port, calls)
}

fn serve(mut stream: TcpStream, answer: &Mutex<Box<Answer>>, calls: &Mutex<Vec<(String, Value)>>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let (mut name, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let Some((header, value)) = line.trim().split_once(':') else {
                if line.trim().is_empty() {
                    break;
                }
                continue;
            };
            match header.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().ok()?,
                "x-amz-target" => value.rsplit('.').next()?.trim().clone_into(&mut name),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let body: Value = serde_json::from_slice(&body).ok()?;
        calls.lock().ok()?.push((name.clone(), body.clone()));
        let (status, body) = (answer.lock().ok()?)(&name, &body);
        let body = body.to_string();
        let head = format!("HTTP/1.1 {status} x\r\nContent-Type: application/x-amz-json-1.0\r\n");
        stream.write_all(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).ok()?;
    }
}
