//! tmp
use bodley_testbed::*;
fn main() -> anyhow::Result<()> {
    let t = std::time::Instant::now();
    prepare()?;
    eprintln!("prepare {:?}", t.elapsed());
    let t = std::time::Instant::now();
    let c = Cluster::start(ClusterOptions::new())?;
    eprintln!("cluster {:?} {}", t.elapsed(), c.bootstrap());
    let t = std::time::Instant::now();
    let w = c.workbench()?;
    w.create_topic("t", 2, &[])?;
    eprintln!("workbench {:?}", t.elapsed());
    let t = std::time::Instant::now();
    w.generate("t", &workbench::Generate { partitions: 2, ..Default::default() }, &Default::default())?;
    let d = w.dump("t", Isolation::Committed)?;
    eprintln!("{:?} {:?}", d.partitions(), t.elapsed());
    eprintln!("{:?}", d.records()?.first());
    eprintln!("{:?}", w.digest("t", Isolation::Committed, true)?);
    eprintln!("{:?}", c.batches(0, "t", 0)?.len());
    compare(&d, &d, Default::default())?;
    if std::env::args().nth(1).is_some() {
        std::thread::sleep(std::time::Duration::from_secs(1000));
    }
    Ok(())
}
