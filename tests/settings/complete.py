"""The smallest environment that the service can start with."""

COMPLETE = {
    "API_BASE_URL": "http://nestjs-api:3000",
    "ORY_PROJECT_SLUG": "happy-tree-1234",
    "OAUTH2_CLIENT_ID": "aitp",
    "OAUTH2_CLIENT_SECRET": "s:e+c%r/et",
    "OPENAI_API_KEY": "sk-real-looking-key",
}
