"""Uses a bucket of an S3 with boto3 in every way that Bodley does: boto3_check.py ENDPOINT BUCKET.

Credentials, region and CA come from the environment. The first thing that is wrong ends it.
"""

import base64
import sys
import zlib

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

MIB = 1024 * 1024
endpoint, bucket = sys.argv[1:]
config = Config(
    s3={"addressing_style": "path", "payload_signing_enabled": endpoint.startswith("http:")},
    retries={"max_attempts": 0},
    # Over https boto3 would else send sums behind the body, in chunks.
    request_checksum_calculation="when_required",
)
s3 = boto3.client("s3", endpoint_url=endpoint, config=config)


def refused(code, status, call, **arguments):
    try:
        call(Bucket=bucket, **arguments)
    except ClientError as error:
        found = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
        assert found == (code, status), found
        return
    raise AssertionError(f"not refused: {call} {arguments}")


def crc32(body):
    return base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()


def listed(**arguments):
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, **arguments)
    return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


s3.head_bucket(Bucket=bucket)
small = b"0123456789"
put = s3.put_object(Bucket=bucket, Key="a/b c+d&e=ü", Body=small, IfNoneMatch="*", ChecksumCRC32=crc32(small))
refused("PreconditionFailed", 412, s3.put_object, Key="a/b c+d&e=ü", Body=b"other", IfNoneMatch="*")
refused("BadDigest", 400, s3.put_object, Key="bad", Body=small, ChecksumCRC32=crc32(b"other"))
whole = s3.get_object(Bucket=bucket, Key="a/b c+d&e=ü")
assert (whole["Body"].read(), whole["ETag"]) == (small, put["ETag"])
part = s3.get_object(Bucket=bucket, Key="a/b c+d&e=ü", Range="bytes=3-5", IfMatch=put["ETag"])
assert (part["Body"].read(), part["ContentRange"]) == (b"345", "bytes 3-5/10")
refused("PreconditionFailed", 412, s3.get_object, Key="a/b c+d&e=ü", IfMatch='"other"')
refused("InvalidRange", 416, s3.get_object, Key="a/b c+d&e=ü", Range="bytes=10-11")
refused("NoSuchKey", 404, s3.get_object, Key="none")
refused("404", 404, s3.head_object, Key="none")

keys = [f"list/{n:03} {chr(0x100 + n)}&+" for n in range(25)]
for key in keys:
    s3.put_object(Bucket=bucket, Key=key, Body=b"")
assert listed(Prefix="list/", PaginationConfig={"PageSize": 10}) == keys
assert listed(Prefix="list/", StartAfter=keys[9], PaginationConfig={"PageSize": 4}) == keys[10:]
assert listed(Prefix="nothing/") == []

bodies = [bytes([n]) * 5 * MIB for n in range(2)] + [b"end"]
upload = s3.create_multipart_upload(Bucket=bucket, Key="large")["UploadId"]
parts = []
for number, body in enumerate(bodies, 1):
    sent = s3.upload_part(Bucket=bucket, Key="large", UploadId=upload, PartNumber=number, Body=body)
    parts.append({"PartNumber": number, "ETag": sent["ETag"]})
pending = s3.list_multipart_uploads(Bucket=bucket, Prefix="la")["Uploads"]
assert [(entry["Key"], entry["UploadId"]) for entry in pending] == [("large", upload)], pending
found = s3.list_parts(Bucket=bucket, Key="large", UploadId=upload)["Parts"]
assert [entry["Size"] for entry in found] == [len(body) for body in bodies], found
complete = {"Key": "large", "UploadId": upload}
named = [part if part["PartNumber"] != 2 else {**part, "ETag": '"other"'} for part in parts]
refused("InvalidPart", 400, s3.complete_multipart_upload, MultipartUpload={"Parts": named}, **complete)
refused("InvalidPartOrder", 400, s3.complete_multipart_upload, MultipartUpload={"Parts": parts[::-1]}, **complete)
s3.complete_multipart_upload(Bucket=bucket, MultipartUpload={"Parts": parts}, IfNoneMatch="*", **complete)
assert s3.get_object(Bucket=bucket, Key="large")["Body"].read() == b"".join(bodies)
assert s3.head_object(Bucket=bucket, Key="large")["ContentLength"] == 10 * MIB + 3

upload = s3.create_multipart_upload(Bucket=bucket, Key="large")["UploadId"]
sent = s3.upload_part(Bucket=bucket, Key="large", UploadId=upload, PartNumber=1, Body=b"x")
again = {"Key": "large", "UploadId": upload, "MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": sent["ETag"]}]}}
refused("PreconditionFailed", 412, s3.complete_multipart_upload, IfNoneMatch="*", **again)
s3.abort_multipart_upload(Bucket=bucket, Key="large", UploadId=upload)
assert not s3.list_multipart_uploads(Bucket=bucket).get("Uploads")
refused("NoSuchUpload", 404, s3.list_parts, Key="large", UploadId=upload)

for key in [*keys, "large", "none"]:
    s3.delete_object(Bucket=bucket, Key=key)
assert listed() == ["a/b c+d&e=ü"], listed()
