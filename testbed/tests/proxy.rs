//! The proxy's faults, on plain sockets.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failure ends the test")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use bodley_testbed::Proxy;
use bodley_testbed::proxy::{Delivery, Direction};

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
    let connected = || TcpStream::connect(proxy.address());
    until(|| connected().is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused));
    exchange(&mut open, b"still").unwrap();
    proxy.refuse(false);
    until(|| connected().is_ok());
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

/// A request of five bytes: an API and a letter.
fn request(api: i16, letter: u8) -> Vec<u8> {
    let [a, b] = api.to_be_bytes();
    vec![0, 0, 0, 3, a, b, letter]
}

fn until(what: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !what() {
        assert!(Instant::now() < deadline, "it does not come");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn counts_requests_and_holds_one_and_all_behind_it() {
    let proxy = Proxy::start(echo()).unwrap();
    let steps = proxy.stop_at_request(3, Delivery::Held);
    let (mut one, mut two) = (connect(&proxy), connect(&proxy));
    // Two at once, in three pieces.
    let both = [request(3, b'a'), request(700, b'b')].concat();
    one.write_all(&both[..5]).unwrap();
    thread::sleep(SOON);
    one.write_all(&both[5..9]).unwrap();
    one.write_all(&both[9..]).unwrap();
    let mut back = vec![0; both.len()];
    one.read_exact(&mut back).unwrap();
    assert!(back == both && !steps.stopped());
    assert_eq!(steps.apis(), [3, 700]);
    two.write_all(&request(1, b'c')).unwrap();
    until(|| steps.stopped());
    one.write_all(&request(2, b'd')).unwrap();
    assert!(times_out(&mut one) && times_out(&mut two));
    assert_eq!(steps.requests(), 3);
    // Who comes behind the next stop has nothing to do with it.
    let others = proxy.count_requests();
    assert_eq!(exchange(&mut connect(&proxy), &request(9, b'x')).unwrap(), request(9, b'x'));
    assert_eq!((others.apis(), steps.requests()), (vec![9], 3));
    steps.release();
    for (stream, sent) in [(&mut one, request(2, b'd')), (&mut two, request(1, b'c'))] {
        let mut back = vec![0; sent.len()];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(back, sent);
    }
}

/// A server that tells what it got, and answers with a byte.
fn listening() -> (u16, std::sync::mpsc::Receiver<u8>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (heard, hearing) = std::sync::mpsc::channel();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let heard = heard.clone();
            thread::spawn(move || {
                let mut frame = [0; 7];
                while stream.read_exact(&mut frame).is_ok() {
                    thread::sleep(Duration::from_millis(50));
                    heard.send(frame[6]).unwrap();
                    let _ = stream.write_all(&[0, 0, 0, 1, frame[6]]);
                }
            });
        }
    });
    (port, hearing)
}

#[test]
fn a_dead_clients_requests_are_held_delivered_or_gone() {
    let (port, heard) = listening();
    let proxy = Proxy::start(port).unwrap();
    let all = [request(1, b'a'), request(1, b'b'), request(1, b'c')].concat();
    let dead = |delivery| {
        let steps = proxy.stop_at_request(2, delivery);
        let mut client = connect(&proxy);
        client.write_all(&all).unwrap();
        until(|| steps.stopped());
        assert_eq!(heard.recv().unwrap(), b'a');
        steps
    };
    let steps = dead(Delivery::Held);
    assert!(heard.recv_timeout(SOON).is_err());
    steps.release();
    until(|| steps.connections() == 0);
    assert_eq!(heard.try_iter().collect::<Vec<_>>(), b"bc");

    let steps = dead(Delivery::Delivered);
    assert_eq!(heard.try_iter().collect::<Vec<_>>(), b"b", "it was answered");
    drop(steps);
    drop(dead(Delivery::Held));
    until(|| proxy.connections() == 0);
    assert!(heard.try_recv().is_err());
    // Nobody counts any more.
    connect(&proxy).write_all(b"1234567").unwrap();
    assert_eq!(heard.recv().unwrap(), b'7');
}

#[test]
fn answers_are_held_back_behind_the_last_request() {
    let proxy = Proxy::start(echo()).unwrap();
    let steps = proxy.stop_at_request(1, Delivery::Delivered);
    let mut stream = connect(&proxy);
    stream.write_all(&request(1, b'a')).unwrap();
    until(|| steps.stopped());
    assert!(times_out(&mut stream));
    proxy.cut();
    assert!(is_cut(&mut stream));
}

/// Takes bytes until the client ends, then says how many there were.
fn sink() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let (mut buffer, mut left) = (vec![0; 1 << 20], 0_u64);
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    left += n as u64;
                    if buffer[n - 1] == b'.' {
                        stream.write_all(&left.to_be_bytes()).unwrap();
                    }
                }
            });
        }
    });
    port
}

/// How long it takes until the other side has so many bytes and has said so.
fn bulk(stream: &mut TcpStream, bytes: usize) -> Duration {
    let mut data = vec![0; bytes];
    data[bytes - 1] = b'.';
    let started = Instant::now();
    stream.write_all(&data).unwrap();
    stream.read_exact(&mut [0; 8]).unwrap();
    started.elapsed()
}

#[test]
fn a_long_way_delays_but_does_not_slow_down() {
    const RTT: Duration = Duration::from_millis(100);
    let proxy = Proxy::start(sink()).unwrap();
    proxy.wan(RTT, 50_000_000);
    let mut stream = connect(&proxy);
    bulk(&mut stream, 1); // pays for the handshake
    let ping = (0..10).map(|_| bulk(&mut stream, 1)).min().unwrap();
    assert!(ping >= RTT && ping < RTT + SOON, "{ping:?}");

    const BULK: usize = 100_000_000;
    // The best of a few: other tests may need the machine at times.
    let alone = (0..3).map(|_| bulk(&mut stream, BULK)).find(|t| (BULK as f64) / t.as_secs_f64() >= 45e6);
    assert!(alone.unwrap() >= Duration::from_secs(2), "{alone:?}");

    // Two share the line.
    let mut other = connect(&proxy);
    let started = Instant::now();
    let beside = thread::spawn(move || bulk(&mut other, BULK / 4));
    bulk(&mut stream, BULK / 4);
    beside.join().unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
}

#[test]
fn a_long_way_delivers_everything_before_the_end() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let proxy = Proxy::start(listener.local_addr().unwrap().port()).unwrap();
    proxy.wan(Duration::from_millis(50), 10_000_000);
    let mut client = connect(&proxy);
    client.write_all(&[7; 300_000]).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let mut all = Vec::new();
    server.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), 300_000);

    // Other faults still work, and nobody hangs.
    let mut client = connect(&proxy);
    let (_server, _) = listener.accept().unwrap();
    proxy.cut_after(10);
    client.write_all(&[7; 300_000]).unwrap();
    assert!(is_cut(&mut client));
    assert_eq!(proxy.cuts(), 1);
    let _open = connect(&proxy);
    drop(proxy);
}
