// What each route of docs/serve.md does.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/api_keys.h"
#include "server/device.h"
#include "server/http.h"
#include "server/shared.h"

namespace zoe::server {

struct Submission;

struct Site : Shared {
  const ApiKeys& keys;
  std::vector<std::unique_ptr<Device>>& devices;
  double keep_seconds, started_at;
  std::vector<std::string> hosts;  // that a Host header may name; empty: any
  std::atomic<bool>& stops;
  std::function<std::size_t()> connections;
};

// How long a route may take, and so who does it.
enum class Lane : std::uint8_t { read, write, plan };

class Routes {
 public:
  explicit Routes(Site site) : site_(std::move(site)) {}
  // From the head alone: who is not let in, and what is nowhere.
  std::optional<HttpResponse> refuse(const HttpRequest& request) const;
  Lane lane(const HttpRequest& request) const;
  // Answers, now or later; every exception becomes an answer.
  void answer(const std::shared_ptr<HttpRequest>& request, const Answer& answer, const std::function<bool()>& is_gone);

 private:
  struct Call {
    const HttpRequest& http;
    std::string owner, id;  // whose key it is; the {id} of the path
    const Answer& answer;
    const std::function<bool()>& is_gone;
  };
  using Handler = HttpResponse (Routes::*)(const Call&);
  struct Route {
    std::string_view method, path;  // with {id}
    Lane lane;
    bool is_open;  // without a key
    Handler handler;
    void (Routes::*later)(const Call&) = nullptr;  // where the answer comes later, in the handler's place
  };
  static const std::vector<Route>& routes();
  struct Found {
    const Route* route = nullptr;
    std::string id, allowed;  // methods that the path has
  };
  static Found find(std::string_view method, std::string_view path);

  std::optional<std::string> owner_of(const HttpRequest& request) const;
  JobView own_job(const Call& call) const;

  HttpResponse create(const Call& call);
  void create_sync(const Call& call);
  HttpResponse plan(const Call& call);
  HttpResponse list(const Call& call);
  HttpResponse get(const Call& call);
  HttpResponse content(const Call& call);
  HttpResponse events(const Call& call);
  HttpResponse remove(const Call& call);
  HttpResponse cancel(const Call& call);
  HttpResponse remix(const Call& call);
  HttpResponse models(const Call& call);
  HttpResponse model(const Call& call);
  HttpResponse loras(const Call& call);
  HttpResponse health(const Call& call);
  HttpResponse ready(const Call& call);
  HttpResponse metrics(const Call& call);
  HttpResponse page(const Call& call);

  struct Accepted {
    JobView job;
    bool is_new;
  };
  Accepted accept(const Call& call, Submission submission, const std::string& remixed_from);

  Site site_;
};

}  // namespace zoe::server
