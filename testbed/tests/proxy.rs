//! The proxy's faults, on plain sockets.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failure ends the test")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use bodley_testbed::Proxy;
use bodley_testbed::proxy::Direction;

const SOON: Duration = Duration::from_millis(200);

/// A server that sends back what it gets.
fn echo() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let (mut reader, mut writer) = (stream.try_clone().unwrap(), stream);
                let _ = std::io::copy(&mut reader, &mut writer);
            });
        }
    });
    port
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

fn exchange(stream: &mut TcpStream, data: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(data)?;
    let mut back = vec![0; data.len()];
    stream.read_exact(&mut back)?;
    Ok(back)
}

fn times_out(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(SOON)).unwrap();
    let kind = stream.read(&mut [0; 1]).unwrap_err().kind();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&kind)
}

fn is_cut(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_))
}

#[test]
fn passes_everything_on() {
    let proxy = Proxy::start(echo()).unwrap();
    let data: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut stream = connect(&proxy);
    let mut sender = stream.try_clone().unwrap();
    let sent = data.clone();
    let writer = thread::spawn(move || sender.write_all(&sent).unwrap());
    let mut back = vec![0; data.len()];
    stream.read_exact(&mut back).unwrap();
    writer.join().unwrap();
    assert!(back == data);
    assert_eq!(proxy.connections(), 1);
}

#[test]
fn cuts_now_and_lets_in_again() {
    let proxy = Proxy::start(echo()).unwrap();
    let mut stream = connect(&proxy);
    exchange(&mut stream, b"hello").unwrap();
    proxy.cut();
    assert!(is_cut(&mut stream));
    assert_eq!(exchange(&mut connect(&proxy), b"again").unwrap(), b"again");
}

#[test]
fn refuses() {
    let proxy = Proxy::start(echo()).unwrap();
    let mut open = connect(&proxy);
    exchange(&mut open, b"hello").unwrap();
    proxy.refuse(true);
    thread::sleep(SOON);
    assert_eq!(TcpStream::connect(proxy.address()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    exchange(&mut open, b"still").unwrap();
    proxy.refuse(false);
    thread::sleep(SOON);
    exchange(&mut connect(&proxy), b"again").unwrap();
}

#[test]
fn stalls_both_ways_or_one() {
    let proxy = Proxy::start(echo()).unwrap();
    let mut stream = connect(&proxy);
    exchange(&mut stream, b"hello").unwrap();
    proxy.stall(true);
    stream.write_all(b"x").unwrap();
    assert!(times_out(&mut stream));
    proxy.stall(false);
    stream.read_exact(&mut [0; 1]).unwrap();

    proxy.stall_one_way(Direction::ToClient, true);
    stream.write_all(b"y").unwrap();
    assert!(times_out(&mut stream));
    proxy.cut();
    assert!(is_cut(&mut stream));
}

#[test]
fn swallows_answers() {
    let proxy = Proxy::start(echo()).unwrap();
    let mut stream = connect(&proxy);
    exchange(&mut stream, b"hello").unwrap();
    proxy.swallow_answers(true);
    stream.write_all(b"lost").unwrap();
    assert!(times_out(&mut stream));
    proxy.swallow_answers(false);
    assert_eq!(exchange(&mut stream, b"kept").unwrap(), b"kept");
}

#[test]
fn delays() {
    let proxy = Proxy::start(echo()).unwrap();
    let mut stream = connect(&proxy);
    proxy.delay(SOON);
    let started = Instant::now();
    exchange(&mut stream, b"slow").unwrap();
    assert!(started.elapsed() >= 2 * SOON);
}

#[test]
fn cuts_after_so_many_bytes_once() {
    let proxy = Proxy::start(echo()).unwrap();
    let mut stream = connect(&proxy);
    proxy.cut_after(25);
    exchange(&mut stream, &[1; 10]).unwrap();
    assert!(exchange(&mut stream, &[1; 10]).is_err());
    assert_eq!(proxy.cuts(), 1);
    exchange(&mut connect(&proxy), &[1; 100]).unwrap();
}

#[test]
fn cuts_at_random_until_calm() {
    let proxy = Proxy::start(echo()).unwrap();
    proxy.cut_at_random(7, 1000);
    let deadline = Instant::now() + Duration::from_secs(20);
    while proxy.cuts() < 3 && Instant::now() < deadline {
        let _ = exchange(&mut connect(&proxy), &[1; 400]);
    }
    assert!(proxy.cuts() >= 3);
    proxy.calm();
    exchange(&mut connect(&proxy), &[1; 5000]).unwrap();
}

#[test]
fn flips_one_bit() {
    let proxy = Proxy::start(echo()).unwrap();
    let mut stream = connect(&proxy);
    proxy.flip_bit_after(12);
    assert_eq!(exchange(&mut stream, &[0; 10]).unwrap(), [0; 10]);
    assert_eq!(exchange(&mut stream, &[0; 4]).unwrap(), [0, 0, 1, 0]);
    assert_eq!(exchange(&mut stream, &[0; 4]).unwrap(), [0; 4]);
}

#[test]
fn throttles() {
    let proxy = Proxy::start(echo()).unwrap();
    let mut stream = connect(&proxy);
    proxy.throttle(Some(10_000));
    let started = Instant::now();
    exchange(&mut stream, &[1; 2000]).unwrap();
    // Both ways count.
    assert!(started.elapsed() >= Duration::from_millis(400));
    proxy.throttle(Some(1));
    stream.write_all(&[2; 100]).unwrap();
    assert!(times_out(&mut stream));
    proxy.calm();
    stream.read_exact(&mut [0; 100]).unwrap();
}
