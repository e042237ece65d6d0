"""Make the buckets that are named on the command line, in the store that the environment names.

Waits for a store that is just starting. Buckets that are there already stay as they are.
"""

import os
import sys
import time

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, HTTPClientError

SECONDS = 60

client = boto3.client(
    "s3",
    endpoint_url=os.environ["S3_ENDPOINT_URL"],
    config=Config(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1}),
)
deadline = time.monotonic() + SECONDS
while True:
    try:
        there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
        for name in sys.argv[1:]:
            if name not in there:
                client.create_bucket(Bucket=name)
            print(f"bucket {name}: {'is there' if name in there else 'is new'}")
        break
    except (BotoCoreError, ClientError) as error:
        # Refused connections come as the one, a store that is not ready as the other.
        status = getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        starting = isinstance(error, (EndpointConnectionError, HTTPClientError)) or status >= 500
        if not starting or time.monotonic() > deadline:
            sys.exit(f"error: {error}")
        time.sleep(1)
