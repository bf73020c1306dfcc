"""Run the fleet on EC2: machines, SSH, a release store in S3, secrets in Systems Manager.

platform.py registers the resources (its parts: image.py, access.py, network.py, group.py, bucket.py, parameters.py,
role.py, alarms.py); operator.py is the operator's side, by ssh.py, s3.py and ssm.py.
"""
