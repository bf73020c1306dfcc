"""Run the fleet on EC2: machines, SSH, a release store in S3, secrets in Systems Manager.

platform.py registers the resources (its parts: image.py, access.py by jump_host.py or endpoint.py, network.py,
group.py, bucket.py, parameters.py, role.py, alarms.py); operator.py is the operator's side, by ssh.py over
connection.py and tunnel.py, s3.py and ssm.py.
"""
