"""What to do about credentials that AWS does not take."""

from __future__ import annotations

LOG_IN = "Log in: `aws sso login`, or set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
LOG_IN_AGAIN = "They ended; log in again: `aws sso login`, or as you did before."
ASK_YOURSELF = "`aws sts get-caller-identity` asks the same; see ~/.aws/config and the variables AWS_*."
# By class of botocore's exceptions, or by AWS's code.
REMEDIES = {
    "NoCredentialsError": LOG_IN,
    "PartialCredentialsError": LOG_IN,
    "CredentialRetrievalError": LOG_IN,
    "ProfileNotFound": "`aws configure list-profiles` lists those that there are; set AWS_PROFILE to one, or unset it.",
    "SSOTokenLoadError": LOG_IN_AGAIN,
    "UnauthorizedSSOTokenError": LOG_IN_AGAIN,
    "TokenRetrievalError": LOG_IN_AGAIN,
    "ExpiredToken": LOG_IN_AGAIN,
    "ExpiredTokenException": LOG_IN_AGAIN,
    "RequestExpired": LOG_IN_AGAIN,
    "InvalidClientTokenId": f"That access key was deleted, or is of another partition. {LOG_IN}",
    "SignatureDoesNotMatch": "The secret key is another access key's, or the clock here is wrong (`timedatectl`).",
    "AuthFailure": "The region may be switched off for the account (AWS Console, Account, AWS Regions).",
    "OptInRequired": "The region is switched off for the account (AWS Console, Account, AWS Regions).",
}
