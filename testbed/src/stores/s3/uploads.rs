//! Multipart uploads. <https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html>

use std::collections::BTreeMap;

use crc_fast::{CrcAlgorithm, checksum_combine};

use super::checks::{self, Sum};
use super::core::{Call, Core};
use super::lock;
use super::objects::{bucket_of, demand_length, said_of};
use super::refusal::Refusal;
use super::world::{Part, Pending, Settings, Stored};
use super::xml;
use crate::stores::http::Answer;

const MOST_PARTS: u32 = 10_000;

/// A part as CompleteMultipartUpload names it.
#[derive(Debug, Default)]
struct Named {
    number: u32,
    etag: String,
    sum: Option<(Sum, String)>,
}

impl Core {
    pub(super) fn create_upload(&self, call: &Call<'_>) -> Result<Answer, Refusal> {
        let head = &call.request.head;
        let attributes = self.attributes(call)?;
        let algorithm = match head.header("x-amz-checksum-algorithm") {
            None => None,
            Some(name) => Some(Sum::named(name).ok_or_else(|| Refusal::not_implemented(name))?),
        };
        match (head.header("x-amz-checksum-type"), algorithm) {
            (None, None | Some(Sum::Crc64Nvme)) | (Some("FULL_OBJECT"), Some(_)) => {}
            _ => return Err(Refusal::not_implemented("a checksum of checksums (COMPOSITE)")),
        }
        let mut world = self.world();
        let (id, begun) = (world.new_upload_id(), self.now());
        let answer = said_of(Answer::new(200), &attributes);
        let (key, parts) = (call.key().to_owned(), BTreeMap::new());
        let pending = Pending { id: id.clone(), key, begun, algorithm, attributes, parts };
        bucket_of(&mut world, call)?.uploads.insert(id.clone(), pending);
        drop(world);
        let mut body = xml::Writer::document();
        body.root("InitiateMultipartUploadResult")
            .text("Bucket", &call.target.bucket)
            .text("Key", call.key())
            .text("UploadId", id)
            .close("InitiateMultipartUploadResult");
        let answer = algorithm
            .into_iter()
            .fold(answer, |answer, sum| answer.header("x-amz-checksum-algorithm", sum.name()));
        Ok(answer.header("content-type", "application/xml").body(body.finish()))
    }

    pub(super) fn upload_part(&self, call: &Call<'_>) -> Result<Answer, Refusal> {
        let (head, body) = (&call.request.head, &call.request.body);
        demand_length(head)?;
        let number = head.param("partNumber").and_then(|n| n.parse().ok());
        let number = number.filter(|n| (1..=MOST_PARTS).contains(n)).ok_or_else(|| {
            Refusal::argument("Part number must be an integer between 1 and 10000, inclusive")
        })?;
        let pending = self.pending(call)?;
        let checked = checks::check(head, body)?;
        lock::demand_sum(&pending.attributes, checked.any())?;
        demand_algorithm(pending.algorithm, checked.sum.as_ref().map(|(sum, _)| *sum))?;
        let crc64 = checks::crc64(body);
        let mut world = self.world();
        let etag = world.new_etag(None);
        let mut answer = Answer::new(200).header("etag", etag.clone());
        if let Some((sum, text)) = &checked.sum {
            answer = answer.header(sum.header(), text.clone());
        }
        let part = Part { body: body.clone(), etag, crc64, sum: checked.sum };
        let uploads = &mut bucket_of(&mut world, call)?.uploads;
        uploads.get_mut(&pending.id).ok_or_else(no_such_upload)?.parts.insert(number, part);
        Ok(answer)
    }

    pub(super) fn complete_upload(&self, call: &Call<'_>) -> Result<Answer, Refusal> {
        let pending = self.pending(call)?;
        let (settings, head) = (self.world().settings.clone(), &call.request.head);
        let named = named_parts(&call.request.body).ok_or_else(|| {
            Refusal::new(400, "MalformedXML", "The XML you provided was not well-formed or did not validate")
        })?;
        let parts = choose(&pending, &named)?;
        demand_sizes(&named, &parts, &settings)?;
        let crc64 = parts.iter().fold(0, |crc, part| {
            checksum_combine(CrcAlgorithm::Crc64Nvme, crc, part.crc64, part.body.len() as u64)
        });
        let pieces: Vec<_> = parts.iter().map(|part| part.body.clone()).collect();
        let sum = whole_sum(call, &pieces, (pending.algorithm, crc64))?;
        let etag = self.world().new_etag(Some(parts.len()));
        let attributes = pending.attributes.clone();
        let object = Stored { pieces, etag, crc64, sum: Some(sum), modified: self.now(), attributes };
        if head.header("x-amz-mp-object-size").is_some_and(|size| size != object.size().to_string()) {
            return Err(Refusal::invalid("The object size is not that of x-amz-mp-object-size"));
        }
        let answer = completed(call, &object, settings.keeps_sums);
        self.place(call, object, settings.complete_if_absent)?;
        bucket_of(&mut self.world(), call)?.uploads.remove(&pending.id);
        Ok(answer)
    }

    pub(super) fn abort_upload(&self, call: &Call<'_>) -> Result<Answer, Refusal> {
        let pending = self.pending(call)?;
        bucket_of(&mut self.world(), call)?.uploads.remove(&pending.id);
        Ok(Answer::new(204))
    }

    /// The upload that the query names. Its parts are shared, not copied.
    pub(super) fn pending(&self, call: &Call<'_>) -> Result<Pending, Refusal> {
        let id = call.request.head.param("uploadId").unwrap_or_default();
        let mut world = self.world();
        let found = bucket_of(&mut world, call)?.uploads.get(id);
        found.filter(|pending| pending.key == call.key()).cloned().ok_or_else(no_such_upload)
    }
}

fn no_such_upload() -> Refusal {
    let message = "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed.";
    Refusal::new(404, "NoSuchUpload", message)
}

/// Parts have the sum that the upload began with.
fn demand_algorithm(expected: Option<Sum>, actual: Option<Sum>) -> Result<(), Refusal> {
    if expected.is_none() || expected == actual {
        return Ok(());
    }
    let name = |sum: Option<Sum>| sum.map_or("null", Sum::name).to_lowercase();
    Err(Refusal::invalid(format!(
        "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
        name(expected),
        name(actual)
    )))
}

/// `None`: this is no such document.
fn named_parts(body: &[u8]) -> Option<Vec<Named>> {
    let mut parts: Vec<Named> = Vec::new();
    for (path, text) in xml::leaves(body)? {
        let [outer, part, name] = &path[..] else { return None };
        if outer != "CompleteMultipartUpload" || part != "Part" {
            return None;
        }
        // Elements come in any order: the second of a kind begins the next part.
        let begins = |part: &Named| match name.as_str() {
            "PartNumber" => part.number != 0,
            "ETag" => !part.etag.is_empty(),
            _ => part.sum.is_some(),
        };
        if parts.last().is_none_or(begins) {
            parts.push(Named::default());
        }
        let last = parts.last_mut()?;
        match name.as_str() {
            "PartNumber" => last.number = text.parse().ok().filter(|n| *n != 0)?,
            "ETag" => last.etag = text,
            other => last.sum = Some((Sum::named(other.strip_prefix("Checksum")?)?, text)),
        }
    }
    let whole = |part: &Named| part.number != 0 && !part.etag.is_empty();
    (!parts.is_empty() && parts.iter().all(whole)).then_some(parts)
}

/// The parts that are named, if they are there and in order.
fn choose<'a>(pending: &'a Pending, named: &[Named]) -> Result<Vec<&'a Part>, Refusal> {
    if !named.is_sorted_by(|a, b| a.number < b.number) {
        let message = "The list of parts was not in ascending order. Parts must be ordered by part number.";
        return Err(Refusal::new(400, "InvalidPartOrder", message));
    }
    let invalid = |part: &Named, why: &str| {
        Refusal::new(
            400,
            "InvalidPart",
            format!("One or more of the specified parts could not be found: {why}"),
        )
        .element("UploadId", pending.id.clone())
        .element("PartNumber", part.number.to_string())
        .element("ETag", part.etag.clone())
    };
    let find = |wanted: &Named| {
        let part = pending.parts.get(&wanted.number).ok_or_else(|| invalid(wanted, "it was not uploaded"))?;
        if part.etag.trim_matches('"') != wanted.etag.trim_matches('"') {
            return Err(invalid(wanted, "the ETag is another"));
        }
        if pending.algorithm.is_some() && pending.algorithm != Some(Sum::Crc64Nvme) && wanted.sum.is_none() {
            return Err(Refusal::invalid(
                "The upload was created using a checksum. The complete request must include the checksum for each part.",
            ));
        }
        if wanted.sum.is_some() && wanted.sum != part.sum {
            return Err(invalid(wanted, "the checksum is another"));
        }
        Ok(part)
    };
    named.iter().map(find).collect()
}

/// All parts but the last are large enough, and equal where that is wanted.
fn demand_sizes(named: &[Named], parts: &[&Part], settings: &Settings) -> Result<(), Refusal> {
    let sizes: Vec<usize> = parts.iter().map(|part| part.body.len()).collect();
    let Some((last, others)) = sizes.split_last() else { return Ok(()) };
    for (size, part) in others.iter().zip(named) {
        if *size < settings.least_part {
            let message = "Your proposed upload is smaller than the minimum allowed size";
            return Err(Refusal::new(400, "EntityTooSmall", message)
                .element("ProposedSize", size.to_string())
                .element("MinSizeAllowed", settings.least_part.to_string())
                .element("PartNumber", part.number.to_string())
                .element("ETag", part.etag.clone()));
        }
    }
    let unequal = others.first().is_some_and(|first| others.iter().any(|size| size != first) || last > first);
    if settings.equal_parts && unequal {
        return Err(Refusal::new(400, "InvalidPart", "All non-trailing parts must have the same length."));
    }
    Ok(())
}

/// The sum of the whole object, compared with the one that the client sent.
fn whole_sum(
    call: &Call<'_>,
    pieces: &[bytes::Bytes],
    (algorithm, crc64): (Option<Sum>, u64),
) -> Result<(Sum, String), Refusal> {
    let told = checks::told(&call.request.head)?;
    demand_algorithm(algorithm, told.as_ref().map(|(sum, _)| *sum).or(algorithm))?;
    let sum = told.as_ref().map(|(sum, _)| *sum).or(algorithm).unwrap_or(Sum::Crc64Nvme);
    let value = match sum {
        Sum::Crc64Nvme => crc64,
        other => {
            let mut digest = crc_fast::Digest::new(other.algorithm());
            pieces.iter().for_each(|piece| digest.update(piece));
            digest.finalize()
        }
    };
    let real = sum.text(value);
    if told.is_some_and(|(_, told)| told != real) {
        let message = format!("The {} you specified did not match the calculated checksum.", sum.name());
        return Err(Refusal::new(400, "BadDigest", message));
    }
    Ok((sum, real))
}

fn completed(call: &Call<'_>, object: &Stored, keeps_sums: bool) -> Answer {
    let mut body = xml::Writer::document();
    body.root("CompleteMultipartUploadResult")
        .text("Location", format!("http://{}{}", call.request.head.host, call.request.head.raw_path))
        .text("Bucket", &call.target.bucket)
        .text("Key", call.key())
        .text("ETag", &object.etag);
    if let (Some((sum, text)), true) = (&object.sum, keeps_sums) {
        body.text(&format!("Checksum{}", sum.name()), text).text("ChecksumType", "FULL_OBJECT");
    }
    body.close("CompleteMultipartUploadResult");
    Answer::new(200).header("content-type", "application/xml").body(body.finish())
}
