import { describe, expect, it } from 'vitest';
import { nginxConfig, parseBuild } from '../../../bench/nginx.ts';

const build = (flags: string): string =>
  `nginx version: nginx/1.22.1\nconfigure arguments: --prefix=/usr ${flags}\n`;

describe("nginx's stream module", () => {
  it('needs no file when it is built in', () => {
    expect(parseBuild(build('--with-stream --with-threads'), () => false)).toEqual({
      version: 'nginx/1.22.1',
      module: undefined,
    });
  });

  it('is looked for where nginx says that its modules are, and then where packages put them', () => {
    const dynamic = build('--modules-path=/opt/modules --with-stream=dynamic');
    const at = (directory: string) => (path: string) => path === `${directory}/ngx_stream_module.so`;
    expect(parseBuild(dynamic, at('/opt/modules')).module).toBe('/opt/modules/ngx_stream_module.so');
    expect(parseBuild(dynamic, at('/usr/lib64/nginx/modules')).module).toBe(
      '/usr/lib64/nginx/modules/ngx_stream_module.so',
    );
  });

  it('is missed with the name of its package', () => {
    expect(() => parseBuild(build('--with-stream_ssl_module'), () => false)).toThrow(
      "nginx/1.22.1 is installed without its stream module (Debian's package is libnginx-mod-stream)",
    );
  });
});

it("nginx's configuration does the relay's job with one worker", () => {
  const config = nginxConfig({
    directory: '/tmp/d',
    module: '/usr/lib/nginx/modules/ngx_stream_module.so',
    listen: '127.0.0.1:7000',
    backends: ['127.0.0.1:7001', '127.0.0.1:7002'],
  });
  const lines = config.split('\n').map((line) => line.trim());
  for (const line of [
    'load_module /usr/lib/nginx/modules/ngx_stream_module.so;',
    'daemon off;',
    'worker_processes 1;',
    'pid /tmp/d/nginx.pid;',
    'hash $remote_addr consistent;',
    'server 127.0.0.1:7001;',
    'server 127.0.0.1:7002;',
    'listen 127.0.0.1:7000 udp rcvbuf=4m sndbuf=4m;',
    'proxy_timeout 120s;',
  ]) {
    expect(lines).toContain(line);
  }
  expect(config).not.toContain('proxy_responses');
});
