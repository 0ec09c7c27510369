// An OpenID provider for tests: client_credentials grants that give JWT access tokens, over http and https, on loopback.
// It takes its settings as JSON in the first argument. Besides, GET and PUT /testbed/control tell and change what it does.

import { generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import { Provider } from 'oidc-provider';

const settings = JSON.parse(process.argv[2]);
const control = { lifetime: settings.lifetime, audience: settings.audience, fail: 0, failures: 0, delay: 0, tokens: 0 };

const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
const provider = new Provider(settings.issuer, {
  clients: settings.clients.map(({ id, secret }) => ({
    client_id: id,
    client_secret: secret,
    grant_types: ['client_credentials'],
    redirect_uris: [],
    response_types: [],
    scope: settings.scope,
    token_endpoint_auth_method: 'client_secret_basic',
  })),
  jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), use: 'sig', alg: 'RS256' }] },
  scopes: [settings.scope],
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => settings.audience,
      getResourceServerInfo: () => ({
        accessTokenFormat: 'jwt',
        accessTokenTTL: control.lifetime,
        audience: control.audience,
        jwt: { sign: { alg: 'RS256' } },
        scope: settings.scope,
      }),
    },
  },
});
provider.on('grant.success', () => { control.tokens += 1; });
const answer = provider.callback();

async function serve(request, response) {
  if (request.url === '/testbed/control') {
    if (request.method === 'PUT') {
      const chunks = await request.toArray();
      Object.assign(control, JSON.parse(Buffer.concat(chunks)));
    }
    response.end(JSON.stringify(control));
    return;
  }
  if (request.url === '/token') {
    await new Promise((done) => { setTimeout(done, control.delay); });
    if (control.fail) {
      control.failures += 1;
      response.writeHead(control.fail).end('told to fail');
      return;
    }
  }
  answer(request, response);
}

const tls = { cert: readFileSync(settings.cert), key: readFileSync(settings.key) };
createSecureServer(tls, serve).listen(settings.https_port, '127.0.0.1');
createServer(serve).listen(settings.http_port, '127.0.0.1');
