//! The program inside the demo's and the tests' image; it is linked statically. It serves in pods, and it is the client
//! that the tests and measurements run where the cluster's sockets are translated.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "there is no runtime: it may sleep")]

mod client;
mod server;

use std::process::ExitCode;

const USAGE: &str = "usage:
  toolbox serve [PORT]          answer HTTP requests and UDP datagrams on PORT (8080) with the pod's name
  toolbox echo PORT             answer one short request per TCP connection, as fast as one thread can
  toolbox get HOST:PORT         print the body of one HTTP answer
  toolbox udp HOST:PORT         print the answer to one datagram
  toolbox stay HOST:PORT        ask by datagrams of one connected socket, again and again; print who answers when that changes
  toolbox hammer HOST:PORT      connect again and again until standard input ends; print who answered, how often
  toolbox crr HOST:PORT COUNT   connect, ask, hear and close COUNT times; print the nanoseconds that took";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["serve"] => server::serve(8080),
        ["serve", port] => number(port).and_then(server::serve),
        ["echo", port] => number(port).and_then(server::echo),
        ["get", address] => client::get(address).map(|body| print!("{body}")),
        ["udp", address] => client::udp(address).map(|body| print!("{body}")),
        ["stay", address] => client::stay(address),
        ["hammer", address] => client::hammer(address),
        ["crr", address, count] => number(count).and_then(|count| client::crr(address, count)),
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("toolbox: {error}");
            ExitCode::FAILURE
        }
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("not a valid number: {text}"))
}
