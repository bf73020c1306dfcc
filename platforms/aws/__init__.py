"""Run the fleet on EC2: machines, SSH, a release store in S3, secrets in Systems Manager.

platform.py registers the resources (its parts: access.py, network.py, group.py, bucket.py, parameters.py, role.py,
alarms.py); operator.py is the operator's side, by ssh.py, s3.py and ssm.py.
"""

# Debian's account on AWS, and what it calls its images of Debian 12 (wiki.debian.org/Cloud/AmazonEC2Image).
DEBIAN_OWNER, DEBIAN_NAME = "136693071363", "debian-12-amd64-*"
