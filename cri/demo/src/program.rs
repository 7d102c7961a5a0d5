//! The programs of the demo's image: the binary itself, by its first argument. `demo-program serve PORT` serves HTTP on every
//! address and writes a line to its output for each request; `demo-program hello` prints where it runs.

use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

/// The argument that starts them.
pub const WORD: &str = "demo-program";
/// How long a client may take to send its request; a demo has one client.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs one of the programs.
#[must_use]
pub fn main(args: &[OsString]) -> ExitCode {
    let words: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
    let done = match words.as_slice() {
        ["hello"] => hello(),
        ["serve", port] => port.parse().map_err(io::Error::other).and_then(serve),
        _ => Err(io::Error::other("usage: demo-program hello | serve PORT")),
    };
    if let Err(error) = done {
        eprintln!("{WORD}: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn hello() -> io::Result<()> {
    let name = std::env::var("HOSTNAME").unwrap_or_default();
    writeln!(io::stdout(), "hello from {name}, process {}", std::process::id())
}

fn serve(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
    println!("serving on port {port}");
    loop {
        let (stream, client) = listener.accept()?;
        // A client may hang up; the next one is served.
        if let Err(error) = answer(stream, client) {
            println!("{client}: {error}");
        }
    }
}

fn answer(mut stream: TcpStream, client: SocketAddr) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = String::new();
    let mut lines = BufReader::new(stream.try_clone()?);
    lines.read_line(&mut request)?;
    let mut header = String::new();
    while lines.read_line(&mut header)? > 2 {
        header.clear();
    }
    println!("{client} {}", request.trim());
    let body = format!("hello {}, this is a pod\n", client.ip());
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}
