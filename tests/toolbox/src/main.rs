//! The program inside the demo's and the tests' image; it is linked statically. It serves in pods, and it is the client
//! that the tests and measurements run where the cluster's sockets are translated.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "there is no runtime: it may sleep")]

mod client;
mod flow;
mod load;
mod probe;
mod rounds;
mod server;

use std::process::ExitCode;

const USAGE: &str = "usage:
  toolbox serve [PORT [NAME]]   answer HTTP requests and UDP datagrams on PORT (8080) with NAME (the pod's)
  toolbox echo PORT             answer one short request per TCP connection, as fast as one thread can
  toolbox mirror PORT           return what comes on TCP connections and in UDP datagrams
  toolbox sink PORT             swallow what comes on TCP connections; say how much that was when it ends
  toolbox get HOST:PORT         print the body of one HTTP answer
  toolbox udp HOST:PORT         print the answer to one datagram
  toolbox stay HOST:PORT        ask by datagrams of one connected socket, again and again; print who answers when that changes
  toolbox tell PORT             answer with the pod's name and the client's address
  toolbox probe PORT            ask what standard input says, all at once, datagrams from PORT and those after it; print who
                                answers, or what is met instead
  toolbox hammer HOST:PORT      connect again and again until standard input ends; print who answered, how often
  toolbox flow connected|unconnected HOST:PORT
                                ask by datagrams each half millisecond; print when who answers changes
timed, they print nanoseconds:
  toolbox crr HOST:PORT COUNT   connect, ask, hear and close COUNT times
  toolbox rr tcp|udp HOST:PORT COUNT
                                ask and hear COUNT times
  toolbox stream HOST:PORT MIB  send that much to a sink
until standard input ends, then they print `<done> <failed>` and the kinds of errors:
  toolbox streams HOST:PORT N   keep N connections to a mirror busy
  toolbox storm HOST:PORT N     connect, ask, hear and close on N threads
  toolbox blast HOST:PORT RATE  send RATE datagrams a second to a mirror";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["serve"] => server::serve(8080, None),
        ["serve", port] => number(port).and_then(|port| server::serve(port, None)),
        ["serve", port, name] => number(port).and_then(|port| server::serve(port, Some(name))),
        ["echo", port] => number(port).and_then(server::echo),
        ["mirror", port] => number(port).and_then(server::mirror),
        ["sink", port] => number(port).and_then(server::sink),
        ["get", address] => client::get(address).map(|body| print!("{body}")),
        ["udp", address] => client::udp(address).map(|body| print!("{body}")),
        ["tell", port] => number(port).and_then(probe::tell),
        ["probe", port] => number(port).and_then(probe::probe),
        ["stay", address] => client::stay(address),
        ["hammer", address] => client::hammer(address),
        ["crr", address, count] => number(count).and_then(|count| rounds::crr(address, count)),
        ["rr", "tcp", address, count] => number(count).and_then(|count| rounds::tcp_rr(address, count)),
        ["rr", "udp", address, count] => number(count).and_then(|count| rounds::udp_rr(address, count)),
        ["stream", address, mebibytes] => number(mebibytes).and_then(|count| rounds::stream(address, count)),
        ["streams", address, count] => number(count).map(|count| load::streams(address, count)),
        ["storm", address, count] => number(count).map(|count| load::storm(address, count)),
        ["blast", address, rate] => number(rate).and_then(|rate| load::blast(address, rate)),
        ["flow", "connected", address] => flow::flow(address, true),
        ["flow", "unconnected", address] => flow::flow(address, false),
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
