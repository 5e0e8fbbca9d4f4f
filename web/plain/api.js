// The HTTP API, as far as this page needs it.

export class Refusal extends Error {
  constructor(status, body) {
    super(body.message ?? `the server answered ${status}`);
    this.status = status;
    this.retryAfterMs = body.retryAfterMs;
  }

  // Asking again would not help.
  get isFinal() {
    return this.status < 500 && this.status !== 429;
  }
}

// Raises Refusal, or TypeError where there was no answer.
export async function call(method, path, { token, body, headers = {} } = {}) {
  const sent = { ...headers };
  if (token) sent.Authorization = `Bearer ${token}`;
  if (body) sent["Content-Type"] = "application/json";
  const response = await fetch(`/api/v1${path}`, { method, headers: sent, body: body && JSON.stringify(body) });
  if (response.ok) return response.status === 204 ? null : response.json();
  throw new Refusal(response.status, await response.json().catch(() => ({})));
}
