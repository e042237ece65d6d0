"""Make the buckets that are named on the command line, in the store that the environment names.

Buckets that are there already stay as they are.
"""

import os
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

client = boto3.client(
    "s3",
    endpoint_url=os.environ["S3_ENDPOINT_URL"],
    config=Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 3}),
)
try:
    there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    for name in sys.argv[1:]:
        if name not in there:
            client.create_bucket(Bucket=name)
        print(f"bucket {name}: {'is there' if name in there else 'is new'}")
except (BotoCoreError, ClientError) as error:
    sys.exit(f"error: {error}")
